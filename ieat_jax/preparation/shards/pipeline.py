"""The shards of a data set by Apache Beam: one element a shard, so that no sound travels between machines."""

from __future__ import annotations

import functools
import logging
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ieat_jax.errors import UserError
from ieat_jax.preparation.shards.cut import Job
from ieat_jax.preparation.shards.make import DialogueMaker, Settings, ShardError, make_shard, told_name
from ieat_jax.progress import Progress
from ieat_jax.storage import open_place, written

FAULT = ".error"  # ends the name of a file that says what ended a shard
EVERY = 1.0  # seconds between looks at what is done


def run_pipeline(jobs: Sequence[Job], settings: Settings, out: Any, options: Sequence[str], *, workers: int) -> None:
    """Make all shards.

    Args:
        jobs: the shards.
        settings: how dialogues are prepared.
        out: folder of the shards, of `storage.open_place`.
        options: of Beam, such as --runner=DataflowRunner; without a runner, processes of this machine do it.
        workers: how many of those.

    Raises:
        ShardError: Beam is not installed, or refuses the options, or the pipeline failed.
    """
    for job in jobs:
        (out / (told_name(job) + FAULT)).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="ieat_jax-beam-") as folder:
        log = Path(folder) / "workers.log"
        try:
            with _quiet(logging.WARNING):  # of Google's packages, which are not there and not needed
                import apache_beam as beam
                from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise ShardError(f"prepare shards needs Apache Beam (pip install 'ieat_jax[beam]'): {error}") from error
        try:
            local = not any(option.partition("=")[0] == "--runner" for option in options)
            with _quiet(logging.CRITICAL if local else logging.NOTSET), _watched(jobs, out):
                flags = [*options, f"--direct_num_workers={workers}"] if local else list(options)
                pipeline = beam.Pipeline(_local(workers, log) if local else None, PipelineOptions(flags))
                _ = (
                    pipeline
                    | "shards to make" >> beam.Create(list(jobs), reshuffle=False)
                    | "spread" >> beam.Reshuffle()
                    | "make" >> beam.Map(_make, settings, str(out))
                )
                pipeline.run().wait_until_finish()
        except Exception as error:
            _tell_faults(jobs, out)
            text = f"{error}\n{log.read_text(errors='replace') if log.exists() else ''}"
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            kept = Path(tempfile.mkstemp(prefix="ieat_jax-beam-", suffix=".log")[1])
            kept.write_text(text)
            raise ShardError(
                f"the Beam pipeline failed: {lines[-1][:300]}. What is finished in {out} is kept: start the same "
                f"command again to go on; all that Beam says is in {kept}"
            ) from error
    _tell_faults(jobs, out)


def _local(workers: int, log: Path) -> Any:
    """Beam's runner on this machine. What DirectRunner stands for may fetch a program from the network first."""
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    if workers == 1:
        return FnApiRunner()
    command = f"{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main 2>>{shlex.quote(str(log))}"
    return FnApiRunner(default_environment=SubprocessSDKEnvironment.from_command_string(command))


@contextmanager
def _quiet(level: int) -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)


@functools.lru_cache(1)
def _maker(settings: Settings) -> DialogueMaker:
    return DialogueMaker(settings)


def _make(job: Job, settings: Settings, place: str) -> int:
    """Make a shard; what a person can act on is written down, since Beam would try it again and bury it."""
    try:
        make_shard(job, _maker(settings), place)
    except UserError as error:
        with written(open_place(place, "--out") / (told_name(job) + FAULT)) as local:
            local.write_text(str(error), encoding="utf-8")
    return job.shard


def _tell_faults(jobs: Sequence[Job], out: Any) -> None:
    for job in jobs:
        fault = out / (told_name(job) + FAULT)
        if fault.exists():
            text = fault.read_text()
            fault.unlink()
            raise ShardError(text)


@contextmanager
def _watched(jobs: Sequence[Job], out: Any) -> Iterator[None]:
    """Show how many shards are there, by looking into their folder: it is the one place that all runners share."""
    names = {told_name(job) for job in jobs}
    over = threading.Event()
    with Progress("shards made", len(jobs)) as progress:
        done = 0

        def look() -> None:
            nonlocal done
            try:
                found = len(names & {path.name for path in out.iterdir()})
            except OSError:
                return
            progress.done(found - done)
            done = found

        def watch() -> None:
            while not over.wait(EVERY):
                look()

        look()
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            look()
