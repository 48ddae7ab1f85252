"""A trained model from where it lies: the folder of a run, or what `export` made of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from ieat_jax.audio.codec import check_identity
from ieat_jax.config.recipes import stored
from ieat_jax.errors import ConfigError
from ieat_jax.interop.containers.source import InteropError, check_tensors, open_safetensors
from ieat_jax.interop.families.llm import open_llm_folder
from ieat_jax.interop.families.whisper import open_whisper_folder
from ieat_jax.interop.formats.huggingface import ELSEWHERE, LLM, SPEECH, WHISPER
from ieat_jax.interop.verify import CONFIG, check_export, is_export
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.config import ModelConfig
from ieat_jax.model.landing import Piece, land
from ieat_jax.model.names import named_leaves
from ieat_jax.model.partition import join
from ieat_jax.runs import manifest
from ieat_jax.runs.folder import CODEC, Run, load_run, load_run_codec, outline_run


def open_run(path: str | Path, *, step: int | None = None, mesh: Mesh | None = None) -> Run:
    """Load a run, or an export of one that holds all of it, as a run.

    Args:
        path: the folder.
        step: of a run; None = the newest intact one. An export has one step.
        mesh: where the parameters shall lie; None = on the first device.

    Raises:
        UserError: as `load_run`; an export whose files were changed, that lacks parts of the run, or is of another
            step.
    """
    if not is_export(Path(path)):
        return load_run(path, step=step, mesh=mesh)
    run = outline(path, mesh=mesh)
    if step not in (None, run.step):
        raise InteropError(f"{path}: is an export of step {run.step}; there is no step {step}")
    wanted = named_leaves(run.model)
    arrays = dict(land(_pieces(Path(path), run.config.model), wanted))
    return Run(**(vars(run) | {"model": join(run.model, arrays, {})}))


def outline(path: str | Path, *, mesh: Mesh | None = None) -> Run:
    """A run or an export as `open_run` gives it, of whose parameters there are the shapes alone: none is read.

    Raises:
        UserError: as `open_run`, but for what the numbers themselves tell.
    """
    path = Path(path)
    if not is_export(path):
        return outline_run(path, mesh=mesh)
    check_export(path)
    about = manifest.read_about(path)
    if about.get("format") != "huggingface":
        raise InteropError(
            f"{path}: an export as {about.get('format')} does not hold all of a run; begin from one as huggingface, or "
            "name its LLM in config.init.llm"
        )
    try:
        config = stored(json.loads((path / CONFIG).read_text(encoding="utf-8")))
    except ConfigError as error:
        raise InteropError(f"{path / CONFIG}: of another version of ieat_jax ({str(error).splitlines()[0]})") from error
    model = abstract_model(config.model, mesh)
    rest = {name: leaf.shape for name, leaf in named_leaves(model).items() if not name.startswith(ELSEWHERE)}
    check_tensors(open_safetensors(path / SPEECH), rest, where=str(path / SPEECH))
    codec = None
    if about["codec"] is not None:
        codec = load_run_codec(path / CODEC)
        check_identity(about["codec"], codec.identity(), where=str(path / CODEC))
    tokenizer = open_llm_folder(path / LLM).tokenizer()
    return Run(path, about["step"], about["stage"], config, model, tokenizer, codec, mesh, _metadata(about))


def _metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": about["step"]} | ({} if about["codec"] is None else {"codec": about["codec"]})


def _pieces(path: Path, config: ModelConfig) -> Iterator[Piece]:
    """Everything, by our names."""
    yield from open_whisper_folder(path / WHISPER).pieces()
    yield from open_llm_folder(path / LLM).pieces(config)
    speech = open_safetensors(path / SPEECH)
    for name in speech.names():
        rank = len(speech.shape(name))
        yield from (Piece(name, (first, *(0,) * (rank - 1))[:rank], rows) for first, rows in speech.blocks(name))
