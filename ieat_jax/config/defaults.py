"""Where recipes begin: the configuration with every field at its default."""

from __future__ import annotations

from ml_collections import ConfigDict

from ieat_jax.config.recipes import to_section
from ieat_jax.config.sections import RunConfig, SourceConfig


def get_defaults() -> ConfigDict:
    """Return a complete configuration (`config/sections.py` lists its fields); it names no data."""
    return to_section(RunConfig())


def source(records: str, *, audio_root: str = "", weight: float = 1.0) -> ConfigDict:
    """Return an entry of `config.data.sources`: a JSONL file, the folder its audio paths start from ('' = its own)."""
    return to_section(SourceConfig(records, audio_root, weight))
