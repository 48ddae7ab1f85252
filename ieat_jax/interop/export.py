"""A trained run written for other software: one table of formats, one way of writing all of them.

Whatever the format, the folder holds ieat.json (the run's configuration, LoRA merged) and manifest.json (which run,
step, version and codec it is from, and the size and SHA-256 of every file), and appears when it is complete.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import jax

from ieat_jax.config.recipes import as_plain
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.containers.write import write_json
from ieat_jax.interop.formats import audio_llm, gguf, goat_slm, huggingface, stablehlo
from ieat_jax.interop.formats.format import Format
from ieat_jax.interop.verify import CONFIG
from ieat_jax.model.config import LoraConfig
from ieat_jax.model.lora import merge_lora
from ieat_jax.runs import manifest
from ieat_jax.runs.folder import Run
from ieat_jax.version import __version__

FORMATS: dict[str, Format] = {
    "huggingface": huggingface.FORMAT,
    "gguf": gguf.FORMAT,
    "stablehlo": stablehlo.FORMAT,
    "goat_slm": goat_slm.FORMAT,
    **audio_llm.FORMATS,
}


def formats_of(run: Run) -> dict[str, str | None]:
    """{format: why this run does not fit into it, None where it does}."""
    return {name: each.cannot(run) for name, each in FORMATS.items()}


def check_format(run: Run, to: str, dtype: str | None = None) -> str:
    """The dtype in which a run is written in the format `to`; None = the format's own.

    Raises:
        InteropError: an unknown format or dtype, or one that cannot hold this run; says which formats can.
    """
    if to not in FORMATS:
        raise InteropError(f"format {to!r} is unknown; known: {', '.join(FORMATS)}")
    reasons = formats_of(run)
    if reasons[to] is not None:
        fitting = [name for name, reason in reasons.items() if reason is None]
        instead = f"it can be written as {', '.join(fitting)}" if fitting else "no other format can hold it either"
        raise InteropError(f"{run.path}: cannot be written as {to}: {reasons[to]}; {instead}")
    known = FORMATS[to].dtypes
    if dtype is not None and dtype not in known:
        raise InteropError(f"dtype {dtype!r} is not one of {to}; it has {', '.join(known)}")
    return dtype or known[0]


def export(run: Run, folder: str | Path, *, to: str = "huggingface", dtype: str | None = None) -> dict[str, int]:
    """Write a run into a new folder, its LoRA merged into the kernels; {file or folder: tensors in it}.

    Args:
        run: loaded; it is left as it is.
        folder: appears when it is complete; what went wrong leaves nothing.
        to: a name of FORMATS.
        dtype: of the tensors, one of the format's; None = its first. Merging is done in float32.

    Raises:
        InteropError: the folder exists, an unknown format or dtype, or a run that does not fit into the format.
    """
    folder = Path(folder)
    dtype = check_format(run, to, dtype)
    if folder.exists():
        raise InteropError(f"{folder}: exists already; name a new folder, or delete that one")
    about = about_run(run) | {"format": to, "dtype": dtype}
    run = merged(run)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        counts = FORMATS[to].write(run, part, dtype)
        write_json(part / CONFIG, as_plain(run.config))
        manifest.write_manifest(part, manifest.marks_of(part), about)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return counts


def about_run(run: Run) -> dict[str, Any]:
    """What a manifest tells of the run that an export is from."""
    return {
        "run": str(run.path),
        "step": run.step,
        "stage": run.stage,
        "version": __version__,
        "codec": None if run.codec is None else run.codec.identity(),
        "lora_merged": bool(run.config.model.lora.rank),
    }


def merged(run: Run) -> Run:
    """The run with its LoRA merged into the kernels."""
    if not run.config.model.lora.rank:
        return run
    model = dataclasses.replace(run.config.model, lora=LoraConfig())
    return dataclasses.replace(
        run, model=jax.jit(merge_lora)(run.model), config=dataclasses.replace(run.config, model=model)
    )
