"""The data of a recipe as training would read it, without the weights that training would load."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from ieat_jax.config.sections import RunConfig
from ieat_jax.interop.formats.huggingface import LLM
from ieat_jax.interop.hub import weights_path
from ieat_jax.interop.verify import is_export
from ieat_jax.objectives.stages import make_objective
from ieat_jax.packing.pipeline import make_plan
from ieat_jax.packing.plan import Plan
from ieat_jax.packing.spec import RowSpec
from ieat_jax.runs.folder import CODEC, TOKENIZER, check_run_files, load_run_codec
from ieat_jax.text.chat import ChatFormat
from ieat_jax.training.rows import check_shapes, make_row_spec
from ieat_jax.training.setup import Ingredients, gather, speaks


@dataclasses.dataclass(frozen=True)
class Planned:
    """A recipe's data and the plan of its rows."""

    config: RunConfig
    parts: Ingredients
    spec: RowSpec
    plan: Plan


def plan_recipe(config: RunConfig) -> Planned:
    """Read the data of a recipe and plan its rows.

    Raises:
        UserError: the recipe or its data cannot be used.
    """
    make_objective(config)
    with tempfile.TemporaryDirectory() as folder:
        parts = gather(_without_weights(config), Path(folder), None, resuming=False)
    chat = ChatFormat.from_config(parts.tokenizer, config.chat)
    unit_end = None if parts.codec is None else parts.codec.end_id
    spec = make_row_spec(config, config.model.listen, chat, unit_end=unit_end)
    check_shapes(spec)
    return Planned(config, parts, spec, make_plan(parts.sources, spec, parts.quarantine))


def _without_weights(config: RunConfig) -> RunConfig:
    """The recipe with the tokenizer and codec of the run that it begins from, instead of all of that run."""
    if not config.init.checkpoint:
        return config
    earlier = weights_path(config.init.checkpoint, "config.init.checkpoint")
    tokenizer, codec = config.tokenizer, config.codec
    if not tokenizer.path and not config.init.llm:
        check_run_files(earlier)
        folder = LLM if is_export(earlier) else TOKENIZER
        tokenizer = dataclasses.replace(tokenizer, path=str(earlier / folder), rename=())
    if speaks(config) and not codec and (earlier / CODEC).is_dir():
        codec = str(getattr(load_run_codec(earlier / CODEC), "path", earlier / CODEC))  # CosyVoice's lies elsewhere
    init = dataclasses.replace(config.init, checkpoint="")
    return dataclasses.replace(config, tokenizer=tokenizer, codec=codec, init=init)
