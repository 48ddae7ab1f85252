"""Threads or processes read ahead: the same batches from all, and one that hangs or dies ends the run by name."""

import inspect
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.hanging import HangingLines, ThreadedLines
from helpers.many_sizes import opened, spec_of, write_corpus

from ieat_jax import errors
from ieat_jax.config.sections import DataConfig
from ieat_jax.data.batch import Batch
from ieat_jax.data.sources.store import DataError
from ieat_jax.packing.pipeline import make_batches, make_plan
from ieat_jax.packing.readers import Readers
from ieat_jax.packing.signs import Signs

STEPS = 7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def read(corpus, first=0, *, stuck=None, kills=False, **settings):
    spec, (sources, quarantine) = spec_of("all"), opened(corpus)
    if stuck is not None:
        sources[0].__class__ = HangingLines
        sources[0].stuck, sources[0].kills = stuck, kills
    plan, signs = make_plan(sources, spec, quarantine), Signs()
    steps = make_batches(sources, spec, plan, batch_size=2, steps=STEPS, signs=signs)
    return plan, Readers(steps, first, DataConfig(**settings), signs, size=1 << 20)


def trained_at(plan, record):
    """The first step, of 2 rows, that trains a record."""
    return next(row // 2 for row in range(2 * STEPS) for piece in plan.row(row) if piece.record == record)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_the_steps_of_threads_in_order(corpus, workers):
    _, alone = read(corpus, first=1, read_threads=1, read_ahead=1)
    _, shared = read(corpus, first=1, read_workers=workers, read_threads=1)
    count = 0
    for one, two in zip(alone, shared, strict=True):
        count += 1
        for name in Batch.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one.batch, name), getattr(two.batch, name), err_msg=name)
        assert one.bad == two.bad
        for (epoch, sums), (same, others) in zip(one.account, two.account, strict=True):
            assert epoch == same
            np.testing.assert_array_equal(sums, others)
    assert count == STEPS - 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_that_hangs_ends_the_run_with_its_record(corpus, workers):
    plan, steps = read(corpus)
    stuck = plan.row(2 * 4)[0].record
    expected = trained_at(plan, stuck)
    timeout = 2.0 if workers == 0 else 4.0
    _, steps = read(corpus, stuck=stuck, read_workers=workers, read_threads=1, read_timeout=timeout)
    for _ in range(expected):
        next(steps)
    began = time.monotonic()
    with pytest.raises(DataError) as found:
        next(steps)
    HangingLines.released.set()  # the thread that hangs here would keep this process from ending
    assert time.monotonic() - began < timeout + 20
    assert f"d{stuck}: turn " in str(found.value)
    assert f"config.data.read_timeout (now {timeout:g} s)" in str(found.value)


def test_reading_processes_have_one_thread_each_in_numerical_libraries(corpus, tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "2")  # what processes would have by themselves
    spec, (sources, quarantine) = spec_of("all"), opened(corpus)
    plan, signs = make_plan(sources, spec, quarantine), Signs()
    sources[0].__class__, sources[0].told = ThreadedLines, str(tmp_path / "told")
    steps = make_batches(sources, spec, plan, batch_size=2, steps=STEPS, signs=signs)
    assert len(list(Readers(steps, 0, DataConfig(read_workers=2, read_threads=1), signs))) == STEPS
    told = {tuple(line.split()) for line in (tmp_path / "told").read_text().splitlines()}
    assert {threads for _, threads in told} == {"1"}
    assert len(told) == 2


def test_a_reading_process_that_is_killed_ends_the_run_with_its_record(corpus):
    plan, _ = read(corpus)
    stuck = plan.row(2 * 4)[0].record
    _, steps = read(corpus, stuck=stuck, kills=True, read_workers=2, read_threads=1)
    with pytest.raises(DataError) as found:
        list(steps)
    assert f"1 of the 2 reading processes ended by themselves or were killed, perhaps for memory: at {corpus}" in str(
        found.value
    )
    assert f": d{stuck}: turn " in str(found.value)


def test_reading_processes_end_with_the_run_however_it_ends(corpus, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, os, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        if __name__ == "__main__":
            from packing.test_readers import read
            _, steps = read(Path({str(corpus)!r}), read_workers=2, read_threads=1)
            next(steps)
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            os._exit(9)
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 9, done.stderr
    children = [int(number) for number in done.stdout.split()]
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_too_little_shared_memory_is_told_before_anything_is_read(corpus):
    spec, (sources, quarantine) = spec_of("all"), opened(corpus)
    steps = make_batches(sources, spec, make_plan(sources, spec, quarantine), batch_size=2, steps=STEPS)
    with pytest.raises(DataError, match=r"/dev/shm, which has .* MiB free, and need up to .*--shm-size"):
        Readers(steps, 0, DataConfig(read_workers=2), Signs(), size=1 << 50)


def test_every_error_for_people_travels_between_processes():
    """An error that cannot be unpickled hangs or hides what went wrong."""
    import importlib
    import pickle
    import pkgutil

    import ieat_jax

    for module in pkgutil.walk_packages(ieat_jax.__path__, "ieat_jax."):
        if module.name.startswith(("ieat_jax.data", "ieat_jax.audio", "ieat_jax.packing", "ieat_jax.text")):
            importlib.import_module(module.name)
    found = [errors.UserError]
    for kind in found:
        found += kind.__subclasses__()
    assert len(found) > 5
    for kind in found:
        given = inspect.signature(kind.__init__).parameters.values()
        wanted = [each.name for each in given if each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self"]
        values = [3 if name in ("line", "offset") else f"a {name}" for name in wanted]
        error = kind(*values) if wanted else kind("what is wrong")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (kind, str(error))
        assert os.path.isfile(inspect.getfile(kind))
