"""Training: from a configuration to a checkpoint, resumable at any step with the same bits as never having stopped."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ieat_jax import processes
from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.config.recipes import as_plain, stored
from ieat_jax.config.sections import RunConfig
from ieat_jax.data.batch import Batch
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.partition import split
from ieat_jax.model.sharding import make_mesh
from ieat_jax.objectives.own import own_contents
from ieat_jax.objectives.stages import make_objective, stage_of
from ieat_jax.packing.plan import ORDER
from ieat_jax.runs.checkpoints import Checkpoints, load_frozen, save_frozen
from ieat_jax.runs.claim import Claim
from ieat_jax.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    FROZEN,
    HANDOVER,
    QUARANTINE,
    save_run_files,
    write_protected,
    writing,
)
from ieat_jax.runs.steps import list_steps, resume_point
from ieat_jax.storage import local_path
from ieat_jax.text.chat import ChatFormat
from ieat_jax.training.clock import Throughput
from ieat_jax.training.console import say, working
from ieat_jax.training.feed import Feed
from ieat_jax.training.initialise import initialise
from ieat_jax.training.metric_files import set_aside
from ieat_jax.training.metrics import FILE as METRICS
from ieat_jax.training.metrics import MetricWriter, Window
from ieat_jax.training.optimizer import abstract_state, init_state, make_optimizer, too_many_bad_steps, updates_done
from ieat_jax.training.placement import check_batch, put_batch
from ieat_jax.training.preemption import STOPPED, Asked, Preemption
from ieat_jax.training.resume import OWN, TrainError, changed_weights, check_allowed, check_resume, check_stage
from ieat_jax.training.rows import check_shapes, make_row_spec
from ieat_jax.training.same import check_same, material, program
from ieat_jax.training.setup import Ingredients, gather, same_content, sequences
from ieat_jax.training.step import TrainState, compiler_options, make_step

WINDOW, DATA = "window", "data_state"  # in a step's metadata: the metrics that no line has yet; where the data stand


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    preempted: bool


def train(config: RunConfig, workdir: str | Path) -> Result:
    """Train to `config.train.steps`, from the newest intact checkpoint in `workdir` if there is one.

    Raises:
        UserError: anything in config, data, weights or workdir that cannot be used, and a loss that is not finite.
    """
    make_objective(config)  # a mistake there is found before data or weights are read
    check_allowed(config)
    workdir = local_path(workdir, "--workdir")
    with Preemption() as preemption:
        try:
            with preemption.interruptible():
                check_same("program", lambda: program(config))  # before the first wait for what others do
                mesh = make_mesh(config.mesh)
                check_batch(config.data.batch_size, config.train.accumulate, sequences(config), mesh)
                claim = Claim(workdir)
            with claim, writing(workdir), jax.set_mesh(mesh):
                with preemption.interruptible():
                    begun = resume_point(workdir / CHECKPOINTS)
                    if begun is not None:
                        check_stage(workdir, begun[1], config)
                    parts = gather(config, workdir, mesh, resuming=begun is not None)
                return _train(parts, workdir, mesh, preemption, begun)
        except Asked:
            say("asked to leave before the first step; start the same command again to go on")
            if processes.count() > 1:  # which may not have been asked, and would wait for this one
                processes.leave(STOPPED, told="asked to leave before the first step")
            return Result(max(list_steps(workdir / CHECKPOINTS), default=0), preempted=True)


def _train(
    parts: Ingredients,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    preemption: Preemption,
    begun: tuple[int, dict[str, Any]] | None,
) -> Result:
    """`begun`: the step that the run goes on from, if it does, and its metadata."""
    config, codec = parts.config, parts.codec
    objective, factors = make_objective(config)
    chat = ChatFormat.from_config(parts.tokenizer, config.chat)
    spec = make_row_spec(config, config.model.listen, chat, unit_end=None if codec is None else codec.end_id)
    check_shapes(spec)
    metadata = {
        "config": as_plain(config),
        "order": ORDER,
        "data": _identities(parts),
        "codec": None if codec is None else codec.identity(),
        OWN: own_contents(config.objective),
    }
    with preemption.interruptible():
        check_same("data", lambda: material(parts, metadata, begun))
    finished = begun is not None and begun[0] >= config.train.steps
    if begun is not None:
        check_resume(begun[1], metadata, moved=same_content(parts, stored(begun[1]["config"])))
        if told := changed_weights(begun[1], metadata):
            say(told)
        if finished:
            # Its arrays are read all the same: a damaged step is set aside, and trained again.
            say(f"already finished: {begun[0]} of {config.train.steps} steps, in {workdir}; checking that it is intact")
    with preemption.interruptible():
        feed = None if finished else Feed(config.data, parts.sources, spec, parts.quarantine)
    settings, options = config.checkpoint, compiler_options(config.train.compiler_options, mesh)
    with Checkpoints(workdir / CHECKPOINTS, keep=settings.keep, every=settings.every) as checkpoints:
        with preemption.interruptible():
            start = _begin(parts, workdir, checkpoints, mesh, resuming=begun is not None)
            check_same("first step", lambda: {"first step": start.step})
        if start.step >= config.train.steps:
            say(_what_next(config, workdir))
            return Result(start.step, preempted=False)
        feed = feed or Feed(config.data, parts.sources, spec, parts.quarantine)  # the last step was damaged
        steps = feed.begin(start.step, config.train.steps, start.data)
        for line in feed.outlook(config.train.steps):
            say(line)
        step_function = make_step(
            start.template, objective, factors, start.optimizer, accumulate=config.train.accumulate, options=options
        )
        loop = _Loop(parts, workdir, checkpoints, preemption, metadata, start, feed)
        result = loop.run(step_function, steps)
    if not result.preempted:  # and its last step is on disk
        say(f"finished: {result.step} of {config.train.steps} steps, in {workdir}")
        say(_what_next(config, workdir))
    return result


def _identities(parts: Ingredients) -> dict[str, dict[str, Any]]:
    """Of every source, what it is as far as the run's stage reads it."""
    hears = stage_of(parts.config).hears
    return {
        source.key: {part: value for part, value in source.identity().items() if hears or part != "audio"}
        for source in parts.sources
    }


def _what_next(config: RunConfig, workdir: Path) -> str:
    """What to do with a run that is finished."""
    run, told = shlex.quote(str(workdir)), "--audio hello.wav" if stage_of(config).hears else '--text "Hello."'
    return (
        f"talk to it: python -m ieat_jax.generate --checkpoint {run} {told}\n"
        f"measure it: python -m ieat_jax.evaluate score --checkpoint {run} --records HELD_OUT.jsonl --out SCORES\n"
        f"go on from it in another stage: config.init.checkpoint = {str(workdir)!r}"
    )


@dataclasses.dataclass(frozen=True)
class _Start:
    """What an attempt begins with, fresh or restored."""

    step: int
    template: Any  # the model's structure
    state: TrainState
    frozen: dict[str, Any]
    optimizer: Any
    schedule: Any
    window: Window
    data: dict[str, Any] | None  # the state of what is read


def _begin(
    parts: Ingredients, workdir: Path, checkpoints: Checkpoints, mesh: jax.sharding.Mesh, *, resuming: bool
) -> _Start:
    config = parts.config
    abstract = abstract_model(config.model, mesh)
    trainable, frozen = split(abstract, config.optimizer.rules)
    optimizer, schedule = make_optimizer(config.optimizer, config.train.steps, trainable)
    if resuming:
        items = {"trainable": trainable, "optimizer": abstract_state(optimizer, trainable)}
        restored = checkpoints.restore(None, items)
        frozen = load_frozen(workdir / FROZEN, frozen)
        save_run_files(workdir, config, parts.tokenizer, parts.codec)
        state = TrainState(restored.items["trainable"], restored.items["optimizer"])
        if restored.step < config.train.steps:
            say(f"resuming from step {restored.step} of {workdir}")
        window = Window(restored.metadata.get(WINDOW))
        return _Start(restored.step, abstract, state, frozen, optimizer, schedule, window, restored.metadata.get(DATA))
    model, handover = initialise(config, mesh, parts.earlier)
    _begin_anew(workdir)
    say(handover.summary())
    trainable, frozen = split(model, config.optimizer.rules)
    save_run_files(workdir, config, parts.tokenizer, parts.codec)
    save_frozen(workdir / FROZEN, frozen)  # refuses other weights than the run began with
    if jax.process_index() == 0:
        write_protected(workdir, HANDOVER, json.dumps(handover.as_dict(), indent=1) + "\n")
    state = TrainState(trainable, init_state(optimizer, trainable))
    counts = [sum(int(np.prod(leaf.shape)) for leaf in part.values()) for part in (trainable, frozen)]
    say(f"stage {config.stage}: {counts[0] / 1e6:.2f} M parameters train, {counts[1] / 1e6:.2f} M are frozen")
    return _Start(0, abstract, state, frozen, optimizer, schedule, Window(), None)


def _begin_anew(workdir: Path) -> None:
    """Say where an earlier attempt left files but no checkpoint, and keep what it logged."""
    if jax.process_index() or not any((workdir / name).exists() for name in (CONFIG, METRICS)):
        return
    kept = set_aside(workdir / METRICS)
    more = f"; what was logged is kept in {kept.name}" if kept else ""
    say(f"{workdir}: an earlier attempt left no checkpoint here, and the run begins anew{more}")


class _Loop:
    """The steps of one attempt."""

    def __init__(
        self,
        parts: Ingredients,
        workdir: Path,
        checkpoints: Checkpoints,
        preemption: Preemption,
        metadata: dict[str, Any],
        start: _Start,
        feed: Feed,
    ):
        self.feed = feed
        self.parts, self.workdir, self.checkpoints = parts, workdir, checkpoints
        self.preemption, self.metadata = preemption, metadata
        self.start, self.window = start, start.window

    def run(self, step_function: Any, steps: Any) -> Result:
        """The steps that are left, until the last one or until the run is asked to leave."""
        config, first, state, frozen = self.parts.config, self.start.step, self.start.state, self.start.frozen
        last, log_every = config.train.steps, config.train.log_every
        if first == 0 and config.checkpoint.initial:
            self._save(0, state)
        throughput = Throughput()
        # Fake CPU devices share a few threads: collectives of two programs in flight can wait for each other for ever.
        one_at_a_time = jax.default_backend() == "cpu"
        with MetricWriter(self.workdir, total_steps=last, start_step=first) as writer:
            for step in range(first + 1, last + 1):
                try:
                    with throughput.data(), self.preemption.interruptible(alone=True):
                        read = next(steps)
                except Asked:  # data may never come
                    return self._leave(step - 1, state, first)
                with throughput.data():
                    batch = put_batch(read.batch)
                if step == first + 1:  # whose time is not that of a step
                    with throughput.pause(), working("compiling the step", writer.print):
                        state, metrics = step_function(state, frozen, batch)
                else:
                    state, metrics = step_function(state, frozen, batch)
                if one_at_a_time:
                    jax.block_until_ready((state, metrics))
                throughput.step(*_counts(read.batch))
                self.feed.trained(read)
                self.window.add(metrics)
                writer.advance(step)
                if step % log_every == 0 or step == last:
                    self._log(writer, step, state, throughput)
                leaving = self.preemption.requested(step)
                if self.checkpoints.due(step) or step == last:
                    with throughput.pause():
                        self._save(step, state)
                if leaving and step < last:
                    return self._leave(step, state, first)
        self._report_quarantine()
        return Result(last, preempted=False)

    def _leave(self, step: int, state: TrainState, first: int) -> Result:
        """Save `step`, where this attempt came further than `first`, and end."""
        with self.preemption.saving():
            if step > first:
                self._save(step, state)
            self.checkpoints.wait()
        saved = self.checkpoints.latest()
        what = "nothing was trained yet" if saved is None else f"step {saved} is saved"
        say(f"asked to leave: {what}; start the same command again to go on")
        return Result(step, preempted=True)

    def _log(self, writer: MetricWriter, step: int, state: TrainState, throughput: Throughput) -> None:
        sums, steps = self.window.take()
        figures, over = self.feed.metrics()
        numbers = {
            "loss": sums["loss"] / steps,
            "grad_norm": sums["grad_norm"] / steps,
            "learning_rate": float(self.start.schedule(max(int(updates_done(state.optimizer)) - 1, 0))),
            "skipped_steps": sums["skipped"],
        }
        writer.write(step, numbers | throughput.report() | figures, sums["parts"])
        for line in over:
            writer.print(line)
        if too_many_bad_steps(state.optimizer, self.parts.config.optimizer):
            raise TrainError(
                f"step {step}: the gradient was not finite {int(state.optimizer.bad_in_a_row)} steps in a row "
                f"(config.optimizer.max_bad_steps = {self.parts.config.optimizer.max_bad_steps}); lower "
                f"config.optimizer.learning_rate or look at the data. The newest checkpoint is "
                f"{self.checkpoints.latest()} in {self.workdir}"
            )

    def _save(self, step: int, state: TrainState) -> None:
        items = {"trainable": state.trainable, "optimizer": state.optimizer}
        with self.preemption.saving():
            self.checkpoints.save(
                step, items, self.metadata | {WINDOW: self.window.as_json(), DATA: self.feed.state(step)}
            )

    def _report_quarantine(self) -> None:
        bad = self.parts.quarantine.summary()
        if bad:
            counts = ", ".join(f"{count} x {code}" for code, count in bad.items())
            say(f"{sum(bad.values())} bad records were left out in part ({counts}): {self.workdir / QUARANTINE}")


def _counts(batch: Batch) -> tuple[float, float]:
    """(tokens, seconds of audio) of a global batch, as seen from this process's rows."""
    tokens = int((batch.segment_ids > 0).sum()) * jax.process_count()
    return tokens, float(batch.clip_frames.sum()) * jax.process_count() / FRAMES_PER_SECOND
