"""Unified spoken language models with injected emotional-attribution thinking, trained in JAX."""
