"""Unified spoken language models with injected emotional-attribution thinking, trained in JAX."""

__version__ = "0.1.0"  # pyproject.toml reads it from here
