"""Training: from a configuration to a checkpoint, resumable at any step with the same bits as never having stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ieat_jax.audio.codec import UnitCodec, load_codec
from ieat_jax.config import model_config, to_json
from ieat_jax.data.batch import Batch
from ieat_jax.data.pipeline import FRAMES_PER_SECOND, Source, make_batches, open_sources, prefetched
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.errors import UserError
from ieat_jax.model.config import ModelConfig
from ieat_jax.model.sharding import make_mesh
from ieat_jax.objectives.stages import make_objective
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import TextTokenizer, load_tokenizer
from ieat_jax.training.abstract import abstract_model
from ieat_jax.training.checkpoint import Checkpoints, load_frozen, read_metadata, save_frozen
from ieat_jax.training.initialise import initialise
from ieat_jax.training.inputs import check_batch, put_batch
from ieat_jax.training.metrics import MetricWriter, Throughput
from ieat_jax.training.optimizer import (
    abstract_state,
    init_state,
    make_optimizer,
    split,
    too_many_bad_steps,
    updates_done,
)
from ieat_jax.training.preemption import Preemption
from ieat_jax.training.recipe import make_recipe
from ieat_jax.training.run import (
    CHECKPOINTS,
    FROZEN,
    HANDOVER,
    QUARANTINE,
    Run,
    load_run,
    load_run_codec,
    save_run_files,
    write_file,
)
from ieat_jax.training.step import TrainState, add_metrics, compiler_options, make_step

# Fields that may differ between the attempts of one run: they change how long it runs and what it writes, not a step.
FREE_FIELDS = (
    "checkpoint",
    "train.log_every",
    "train.compiler_options",
    "data.read_threads",
    "data.read_ahead",
    "data.max_bad_share",
    "mesh",
)


class TrainError(UserError):
    """A run that can not begin, go on, or resume."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    preempted: bool


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of besides its parameters."""

    config: ConfigDict
    model_config: ModelConfig
    earlier: Run | None
    tokenizer: TextTokenizer
    codec: UnitCodec | None
    sources: list[Source]
    quarantine: Quarantine


def train(config: ConfigDict, workdir: str | Path) -> Result:
    """Train to `config.train.steps`, from the newest intact checkpoint in `workdir` if there is one.

    Raises:
        UserError: anything in config, data, weights or workdir that can not be used, and a loss that is not finite.
    """
    workdir = Path(workdir)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, config.train.accumulate, _sequences(config), mesh)
    with jax.set_mesh(mesh):
        return _train(_gather(config, workdir, mesh), workdir, mesh)


def _sequences(config: ConfigDict) -> dict[str, int]:
    shapes = config.data.shapes
    return {name: shapes[name] for name in ("tokens", "teacher_tokens", "speak")}


def _gather(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh) -> Parts:
    """Tokenizer, codec and data of a run; checks that they fit each other before anything is computed."""
    sizes = model_config(config)
    make_objective(config.stage, config.objective)  # a mistake there is found before weights are read
    resuming = (workdir / CHECKPOINTS).is_dir() and any((workdir / CHECKPOINTS).iterdir())
    earlier = None
    if config.init.checkpoint and not resuming:
        earlier = load_run(config.init.checkpoint, mesh=mesh)
    tokenizer = _tokenizer(config, earlier, workdir if resuming else None)
    if tokenizer.vocab_size > sizes.llm.vocab_size:
        raise TrainError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, config.model.llm.vocab_size = {sizes.llm.vocab_size} "
            "is too small for it"
        )
    codec = _codec(config, sizes, earlier, workdir if resuming else None)
    quarantine = Quarantine(config.data.max_bad_share, workdir / QUARANTINE if jax.process_index() == 0 else None)
    sources = open_sources(config.data.sources, quarantine, codec=None if codec is None else codec.identity())
    quarantine.check()
    if codec is not None and not any(t.units is not None for s in sources for r in s.records for t in r.turns):
        raise TrainError(
            f"{', '.join(s.name for s in sources)}: no turn has speech units; extract them with "
            "`python -m ieat_jax.prepare units`, or set config.model.speak.enabled=False"
        )
    return Parts(config, sizes, earlier, tokenizer, codec, sources, quarantine)


def _tokenizer(config: ConfigDict, earlier: Run | None, resumed: Path | None) -> TextTokenizer:
    rename = dict(config.tokenizer.rename)
    if resumed is not None:
        return load_tokenizer(resumed / "tokenizer")
    if config.tokenizer.path:
        return load_tokenizer(config.tokenizer.path, rename)
    if config.init.llm:
        from ieat_jax.interop.llm import load_llm

        return load_llm(config.init.llm).tokenizer().renamed(rename)
    if earlier is not None:
        return earlier.tokenizer
    raise TrainError("config.tokenizer.path is empty, and neither config.init.llm nor config.init.checkpoint has one")


def _codec(config: ConfigDict, sizes: ModelConfig, earlier: Run | None, resumed: Path | None) -> UnitCodec | None:
    """The codec of a run that speaks."""
    if config.stage != "joint" or not sizes.speak.enabled:
        return None
    if resumed is not None:
        codec = load_run_codec(resumed / "codec")
    elif config.codec:
        codec = load_codec(config.codec)
    elif earlier is not None and earlier.codec is not None:
        codec = earlier.codec
    else:
        raise TrainError("a joint run that speaks needs a unit codec: set config.codec to its folder")
    if codec.vocab_size != sizes.speak.unit_vocab_size:
        raise TrainError(
            f"config.model.speak.unit_vocab_size = {sizes.speak.unit_vocab_size}, but the codec {codec.name} has "
            f"{codec.vocab_size} ids; set it to that"
        )
    if codec.group_size != sizes.speak.group_size:
        raise TrainError(
            f"config.model.speak.group_size = {sizes.speak.group_size}, but the codec {codec.name} has "
            f"{codec.group_size} units in a group; set it to that"
        )
    return codec


def _train(parts: Parts, workdir: Path, mesh: jax.sharding.Mesh) -> Result:
    config, codec = parts.config, parts.codec
    objective, factors = make_objective(config.stage, config.objective)
    chat = ChatFormat.from_config(parts.tokenizer, config)
    recipe = make_recipe(config, parts.model_config.listen, chat, unit_end=None if codec is None else codec.end_id)
    batches = make_batches(
        parts.sources,
        recipe,
        parts.quarantine,
        batch_size=config.data.batch_size,
        steps=config.train.steps,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    metadata = {
        "config": json.loads(to_json(config)),
        "data": {source.name: fingerprint(source) for source in parts.sources},
        "codec": None if codec is None else codec.identity(),
    }
    settings, options = config.checkpoint, compiler_options(config.train.compiler_options, mesh)
    with (
        Checkpoints(workdir / CHECKPOINTS, keep=settings.keep, every=settings.every) as checkpoints,
        Preemption() as preemption,
    ):
        first, template, state, frozen, optimizer = _begin(parts, workdir, checkpoints, metadata, mesh)
        step_function = make_step(
            template, objective, factors, optimizer[0], accumulate=config.train.accumulate, options=options
        )
        loop = _Loop(parts, workdir, checkpoints, preemption, metadata, optimizer[1])
        return loop.run(step_function, state, frozen, batches, first)


def _begin(
    parts: Parts, workdir: Path, checkpoints: Checkpoints, metadata: dict[str, Any], mesh: jax.sharding.Mesh
) -> tuple[int, Any, TrainState, dict[str, Any], tuple[Any, Any]]:
    """(first step, model template, state, frozen parameters, (optimizer, schedule)), fresh or restored."""
    config = parts.config
    if checkpoints.latest() is not None:
        _, stored = read_metadata(workdir / CHECKPOINTS)
        check_resume(stored, metadata, allow=config.checkpoint.allow_changes)
    abstract = abstract_model(parts.model_config, mesh)
    trainable, frozen = split(abstract, config.optimizer.rules)
    optimizer, schedule = make_optimizer(config.optimizer, config.train.steps, trainable)
    if checkpoints.latest() is not None:
        items = {"trainable": trainable, "optimizer": abstract_state(optimizer, trainable)}
        restored = checkpoints.restore(None, items)
        frozen = load_frozen(workdir / FROZEN, frozen)
        save_run_files(workdir, config, parts.tokenizer, parts.codec)
        state = TrainState(restored.items["trainable"], restored.items["optimizer"])
        _say(f"resuming from step {restored.step} of {workdir}")
        return restored.step, abstract, state, frozen, (optimizer, schedule)
    model, handover = initialise(config, parts.model_config, mesh, parts.earlier)
    _say(handover.summary())
    trainable, frozen = split(model, config.optimizer.rules)
    save_run_files(workdir, config, parts.tokenizer, parts.codec)
    if jax.process_index() == 0:
        write_file(workdir / HANDOVER, json.dumps(handover.as_dict(), indent=1) + "\n")
    save_frozen(workdir / FROZEN, frozen)
    state = TrainState(trainable, init_state(optimizer, trainable))
    counts = [sum(int(np.prod(leaf.shape)) for leaf in part.values()) for part in (trainable, frozen)]
    _say(f"stage {config.stage}: {counts[0] / 1e6:.2f} M parameters train, {counts[1] / 1e6:.2f} M are frozen")
    return 0, abstract, state, frozen, (optimizer, schedule)


class _Loop:
    """The steps of one attempt."""

    def __init__(
        self,
        parts: Parts,
        workdir: Path,
        checkpoints: Checkpoints,
        preemption: Preemption,
        metadata: dict[str, Any],
        schedule: Any,
    ):
        self.parts, self.workdir, self.checkpoints = parts, workdir, checkpoints
        self.preemption, self.metadata, self.schedule = preemption, metadata, schedule

    def run(self, step_function: Any, state: TrainState, frozen: dict[str, Any], batches: Any, first: int) -> Result:
        """Steps `first` + 1 to the last, or until the run is asked to leave."""
        config = self.parts.config
        last, log_every = config.train.steps, config.train.log_every
        if first == 0 and config.checkpoint.initial:
            self._save(0, state)
        throughput, so_far, since = Throughput(), None, 0
        # Fake CPU devices share a few threads: collectives of two programs in flight can wait for each other for ever.
        one_at_a_time = jax.default_backend() == "cpu"
        reader = prefetched(batches, first, threads=config.data.read_threads, buffer=config.data.read_ahead)
        with MetricWriter(self.workdir, total_steps=last, start_step=first) as writer:
            for step in range(first + 1, last + 1):
                with throughput.data():
                    host = next(reader)
                    batch = put_batch(host)
                state, metrics = step_function(state, frozen, batch)
                if one_at_a_time:
                    jax.block_until_ready((state, metrics))
                throughput.step(*_counts(host))
                so_far = metrics if so_far is None else add_metrics(so_far, metrics)
                since += 1
                writer.advance(step)
                if step % log_every == 0 or step == last:
                    self._log(writer, step, so_far, since, state, throughput)
                    so_far, since = None, 0
                leaving = self.preemption.requested(step)
                if self.checkpoints.due(step) or step == last or leaving:
                    with throughput.pause():
                        self._save(step, state)
                if leaving and step < last:
                    self.checkpoints.wait()
                    _say(f"asked to leave: step {step} is saved; start the same command again to go on")
                    return Result(step, preempted=True)
        self._report_quarantine()
        return Result(last, preempted=False)

    def _log(
        self,
        writer: MetricWriter,
        step: int,
        so_far: dict[str, Any],
        since: int,
        state: TrainState,
        throughput: Throughput,
    ) -> None:
        so_far = jax.device_get(so_far)
        numbers = {
            "loss": so_far["loss"] / since,
            "grad_norm": so_far["grad_norm"] / since,
            "learning_rate": float(self.schedule(max(int(updates_done(state.optimizer)) - 1, 0))),
            "skipped_steps": so_far["skipped"],
            "bad_records": len(self.parts.quarantine),
        }
        writer.write(step, numbers | throughput.report(), so_far["parts"])
        self.parts.quarantine.check()
        if too_many_bad_steps(state.optimizer, self.parts.config.optimizer):
            raise TrainError(
                f"step {step}: the gradient was not finite {int(state.optimizer.bad_in_a_row)} steps in a row "
                f"(config.optimizer.max_bad_steps = {self.parts.config.optimizer.max_bad_steps}); lower "
                f"config.optimizer.learning_rate or look at the data. The newest checkpoint is "
                f"{self.checkpoints.latest()} in {self.workdir}"
            )

    def _save(self, step: int, state: TrainState) -> None:
        items = {"trainable": state.trainable, "optimizer": state.optimizer}
        self.checkpoints.save(step, items, self.metadata)

    def _report_quarantine(self) -> None:
        bad = self.parts.quarantine.summary()
        if bad:
            counts = ", ".join(f"{count} x {code}" for code, count in bad.items())
            _say(f"{sum(bad.values())} bad records were replaced ({counts}): {self.workdir / QUARANTINE}")


def _counts(batch: Batch) -> tuple[float, float]:
    """(tokens, seconds of audio) of a global batch, as seen from this process's rows."""
    tokens = int((batch.segment_ids > 0).sum()) * jax.process_count()
    return tokens, float(batch.clip_frames.sum()) * jax.process_count() / FRAMES_PER_SECOND


def fingerprint(source: Source) -> dict[str, Any]:
    """What a data source was made of: number of records, and a hash over them, their units included."""
    digest = hashlib.sha256()
    for record in source.records:
        digest.update(json.dumps(record.raw, sort_keys=True, ensure_ascii=True, default=_listed).encode())
        for turn in record.turns:
            digest.update(b"-" if turn.units is None else np.asarray(turn.units, np.int32).tobytes())
    return {"records": len(source.records), "hash": digest.hexdigest()[:16], "weight": source.weight}


def _listed(value: Any) -> Any:
    return value.tolist()


def check_resume(stored: dict[str, Any], now: dict[str, Any], *, allow: bool) -> None:
    """Raise a TrainError when config or data are not those that a run began with, unless that is allowed."""
    differing = [
        f"config.{name}: {old!r} then, {new!r} now"
        for name, old, new in _differences(stored["config"], now["config"])
        if not any(name == free or name.startswith(free + ".") for free in FREE_FIELDS)
    ]
    if stored["data"] != now["data"]:
        changed = [name for name in stored["data"] | now["data"] if stored["data"].get(name) != now["data"].get(name)]
        differing.append(f"the records of {', '.join(changed)}")
    if differing and not allow:
        raise TrainError(
            f"this run began with another configuration ({'; '.join(differing[:8])}); use a new workdir, or set "
            "config.checkpoint.allow_changes=True to go on all the same"
        )


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in old | new:
            found += _differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    return [] if old == new else [(prefix, old, new)]


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
