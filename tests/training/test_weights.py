"""The weights of a mixture may change at a resume, when that is asked for; what is read then is known beforehand."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.many_sizes import opened, spec_of, write_corpus
from helpers.tiny_stages import recipe, start, use_mesh
from helpers.tiny_stages import write_corpus as write_tiny

from ieat_jax.config.defaults import source
from ieat_jax.config.sections import DataConfig, SourceConfig
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.open import open_sources
from ieat_jax.packing.pipeline import make_plan
from ieat_jax.packing.plan import Position
from ieat_jax.training.feed import Feed
from ieat_jax.training.resume import TrainError


def mixed(weight, **fields):
    config = recipe(Path(), "write", train__log_every=1, checkpoint__every=1, **fields)
    config.data.sources.other = source("other.jsonl", weight=weight)
    return config


def test_a_run_goes_on_with_other_weights_when_that_is_asked_for(tmp_path, capsys):
    write_tiny(tmp_path)
    text = (tmp_path / "train.jsonl").read_text().replace('_id": "d', '_id": "other')
    (tmp_path / "other.jsonl").write_text(text)
    use_mesh(1, 1, 1, 1)
    with contextlib.chdir(tmp_path):
        start(mixed(1.0, train__steps=2), "run", learns=False)
        steps = "train.steps"
        with pytest.raises(TrainError, match=r"\(config\.data\.sources\.other\.weight: 1\.0 then, 3\.0 now\)"):
            start(mixed(3.0, train__steps=4, checkpoint__allow_changes=(steps,)), "run", learns=False)
        assert "from here on" not in capsys.readouterr().out
        allowed = (steps, "data.sources.other.weight")
        assert start(mixed(3.0, train__steps=4, checkpoint__allow_changes=allowed), "run", learns=False).step == 4
        assert "from here on config.data.sources.other.weight = 3 (it was 1): " in capsys.readouterr().out
        # From then on these are the weights of the run.
        with pytest.raises(TrainError, match=r"weight: 3\.0 then, 1\.0 now"):
            start(mixed(1.0, train__steps=5, checkpoint__allow_changes=(steps,)), "run", learns=False)
        assert start(mixed(3.0, train__steps=5, checkpoint__allow_changes=(steps,)), "run", learns=False).step == 5
        assert "from here on" not in capsys.readouterr().out
    use_mesh()


def two(folder, weight):
    settings = {
        "all": SourceConfig(str(folder / "all.jsonl")),
        "few": SourceConfig(str(folder / "few.jsonl"), "", weight),
    }
    quarantine = Quarantine(0.5)
    return open_sources(settings, quarantine), quarantine


def test_it_reads_what_a_run_reads_that_had_them_from_the_beginning_from_its_place_on(tmp_path):
    write_corpus(tmp_path)
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:8]) + "\n")
    spec = spec_of("align")
    settings = DataConfig(batch_size=3, shapes=spec.shapes)

    def feed(weight):
        sources, quarantine = two(tmp_path, weight)
        return Feed(settings, sources, spec, quarantine)

    before = feed(1.0)
    steps = before.begin(0, 9, None)
    for _ in range(9):
        before.trained(next(steps))
    state = json.loads(json.dumps(before.state(9)))
    after = feed(4.0)
    read = list(after.begin(9, 14, state))
    sources, quarantine = two(tmp_path, 4.0)
    plan = make_plan(sources, spec, quarantine, Position(*state["position"]))
    assert after.plan.position == plan.position
    wanted = [plan.row(row) for row in range(27, 42)]
    assert [after.plan.row(row) for row in range(27, 42)] == wanted
    assert [len(step.batch.tokens) for step in read] == [3] * 5
    few = np.mean([piece.source == 1 for row in wanted for piece in row])
    assert few > 0.6  # of 0.8; half of them before
    assert after.state(14)["position"][:2] == [14, 42]
    assert opened(tmp_path)[0][0].identity() == sources[0].identity()
