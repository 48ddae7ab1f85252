"""Unified spoken language models with injected emotional-attribution thinking, trained in JAX."""

from ieat_jax.version import __version__ as __version__
