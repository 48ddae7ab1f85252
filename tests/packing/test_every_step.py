"""A run that is stopped at any of its 64 steps reads on as if it had not, on 1, 2 or 4 hosts, with reads that fail."""

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.many_sizes import opened, spec_of, write_corpus

from ieat_jax.audio.files import AudioError
from ieat_jax.config.sections import DataConfig
from ieat_jax.data.batch import Batch
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources import jsonl, retry, sound
from ieat_jax.packing import tables
from ieat_jax.packing.pipeline import make_batches, make_plan
from ieat_jax.packing.plan import Position
from ieat_jax.packing.sizes import BUDGETS
from ieat_jax.training.feed import Feed

STEPS, BATCH = 64, 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def flaky(monkeypatch):
    """Every third read of sound fails once, and every fifth look at a header."""
    monkeypatch.setattr(retry, "PAUSES", (0.0, 0.0))

    def failing(read, every):
        count, failed = itertools.count(), set()

        def sometimes(path, **options):
            number = next(count)
            if number % every == 0 and number - 1 not in failed:
                failed.add(number)
                raise AudioError("unreadable", path, "cannot be read (Input/output error)")
            return read(path, **options)

        return sometimes

    monkeypatch.setattr(jsonl, "read_audio", failing(jsonl.read_audio, 3))
    monkeypatch.setattr(sound, "count_samples", failing(sound.count_samples, 5))


@pytest.fixture(scope="module")
def spec(corpus):
    """Rows that are exactly as large as the largest turn needs."""
    wide = spec_of("all")
    sources, quarantine = opened(corpus)
    table = tables.make_tables(sources[0], wide, quarantine)
    largest = dict(zip(BUDGETS, tables.largest_sizes(table, wide).max(axis=0).tolist(), strict=False))
    tight = dataclasses.replace(wide, shapes=dataclasses.replace(wide.shapes, **largest))
    for name in ("tokens", "targets", "teacher_tokens", "speak", "groups"):  # one less, and a turn does not fit
        less = dataclasses.replace(tight, shapes=dataclasses.replace(tight.shapes, **{name: largest[name] - 1}))
        _, bad = opened(corpus)
        tables.make_tables(sources[0], less, bad)
        assert set(bad.summary()) == {"too_long"}, name
    return tight


def digest(batch, first=0, last=None):
    made = hashlib.sha256()
    for name in Batch.__dataclass_fields__:
        made.update(np.ascontiguousarray(getattr(batch, name)[first:last]).tobytes())
    return made.hexdigest()


def batches(corpus, spec, position=None, host=0, hosts=1):
    sources, quarantine = opened(corpus)
    plan = make_plan(sources, spec, quarantine, position)
    data = make_batches(sources, spec, plan, batch_size=BATCH, steps=STEPS + 1, host=host, hosts=hosts)
    return plan, data


@pytest.fixture(scope="module")
def whole(corpus, spec):
    """(position, hashes of the batch's parts for 1, 2 and 4 hosts) of every step of a run that is not stopped."""
    plan, data = batches(corpus, spec)
    found = []
    for step in range(STEPS):
        batch = data[step].batch
        parts = {hosts: [digest(batch, *span) for span in spans(hosts)] for hosts in (1, 2, 4)}
        found.append((json.loads(json.dumps(plan.at(step, BATCH))), parts))
    assert len({parts[1][0] for _, parts in found}) == STEPS
    assert plan.at(STEPS, BATCH).window > 2  # several epochs
    return found


def spans(hosts):
    size = BATCH // hosts
    return [(host * size, (host + 1) * size) for host in range(hosts)]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_every_step_is_that_of_the_run_that_never_stopped(hosts, corpus, spec, whole, flaky):
    made = {host: batches(corpus, spec, host=host, hosts=hosts) for host in range(hosts)}
    for step in range(STEPS):
        position, parts = whole[step]
        for host, (plan, _) in made.items():
            sources, _ = opened(corpus)
            later = type(plan)(plan.mixture, plan.tables, spec, Position(*position))  # as `Feed.begin` goes on
            data = make_batches(sources, spec, later, batch_size=BATCH, steps=STEPS, host=host, hosts=hosts)
            assert digest(data[step].batch) == parts[hosts][host], (step, host)


def test_what_a_run_remembers_is_enough_and_equal(corpus, spec, whole):
    """Through what a checkpoint holds: batches, and the account."""
    settings = DataConfig(batch_size=BATCH, shapes=spec.shapes)

    def feed():
        sources, quarantine = opened(corpus)
        return Feed(settings, sources, spec, quarantine)

    run, states = feed(), []
    steps = run.begin(0, STEPS, None)
    for step in range(STEPS):
        states.append(json.loads(json.dumps(run.state(step))))
        run.trained(next(steps))
    last = run.state(STEPS)
    for first in (1, 17, 40, 63):
        again = feed()
        steps = again.begin(first, STEPS, states[first])
        for step in range(first, STEPS):
            read = next(steps)
            assert digest(read.batch) == whole[step][1][1][0]
            again.trained(read)
        assert again.state(STEPS) == last


def test_far_steps_are_the_same_for_any_number_of_hosts_and_in_another_process(tmp_path):
    """Steps 0, 1, 17, 1000 and 12,345, when the records come round for the hundredth time."""
    corpus = write_corpus(tmp_path)
    lines = [json.loads(line) for line in (corpus / "all.jsonl").read_text().splitlines()]
    more = [line | {"dialogue_id": f"{line['dialogue_id']}_{copy}"} for copy in range(25) for line in lines]
    (corpus / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in more))
    spec, steps = spec_of("align"), (0, 1, 17, 1000, 12_345)
    plan = make_plan(opened(corpus)[0], spec, Quarantine(0.0))
    found = far_hashes(corpus, spec, steps, 1, plan)
    assert len(set(found)) == len(steps)
    for hosts in (2, 8):
        assert far_hashes(corpus, spec, steps, hosts, plan) == found
    script = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parents[1])!r}]\n"
        "from pathlib import Path\n"
        "from helpers.many_sizes import spec_of\n"
        "from packing.test_every_step import far_hashes\n"
        f"print(*far_hashes(Path({str(corpus)!r}), spec_of('align'), {steps[:-1]}, 1))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == found[:-1], done.stderr


def far_hashes(corpus, spec, steps, hosts, plan=None):
    """The hash of the global batch of each step, put together from the parts of all hosts."""
    sources, quarantine = opened(corpus)
    plan = plan or make_plan(sources, spec, quarantine)
    data = [
        make_batches(sources, spec, plan, batch_size=8, steps=max(steps) + 1, host=host, hosts=hosts)
        for host in range(hosts)
    ]
    found = []
    for step in steps:
        parts = [part[step].batch for part in data]
        names = Batch.__dataclass_fields__
        whole = Batch(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
        found.append(digest(whole))
    return found
