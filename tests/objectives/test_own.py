"""A loss that lives in a user's own file: trained, logged, stored, and refused with a sentence where it cannot be."""

import json

import numpy as np
import pytest
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

from ieat_jax.errors import ConfigError
from ieat_jax.runs.folder import load_run
from ieat_jax.training.resume import TrainError

MINE = """
import jax.numpy as jnp

def quiet(model, batch, forward):
    audio, lengths = forward.heard
    return jnp.sum(jnp.square(audio)), jnp.float32(audio.size)

def reading(model, batch, forward):
    assert forward.written.shape == forward.states.shape == (*batch.tokens.shape, forward.states.shape[-1])
    return jnp.sum(batch.segment_ids > 0), 2.0

def wrong(model, batch, forward):
    return forward.written
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    (folder / "mine.py").write_text(MINE)
    return folder


@pytest.fixture(autouse=True)
def one_device():
    use_mesh(1, 1, 1, 1)
    yield
    use_mesh()


def trained(corpus, folder, extra):
    only = dict.fromkeys(("objective__kl", "objective__eot", "objective__ce", "objective__attribute"), 1e-6)
    fields = {"train__steps": 1, "train__log_every": 1, "optimizer__warmup_steps": 0} | only
    start(recipe(corpus, "align", objective__extra=extra, **fields), folder)
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]), load_run(folder)


def test_it_is_logged_trained_and_stored(corpus, tmp_path):
    extra = ((f"{corpus}/mine.py:quiet", 100.0), (f"{corpus}/mine.py:reading", 0.0))
    plain, before = trained(corpus, tmp_path / "plain", ())
    metrics, run = trained(corpus, tmp_path / "own", extra)
    assert {"quiet", "reading"} <= set(metrics)
    assert "quiet" not in plain
    assert metrics["loss"] == pytest.approx(plain["loss"] + 100 * metrics["quiet"], rel=1e-3)
    assert run.config.objective.extra == extra
    kernels = (np.asarray(each.model.listen.adapter.conv1.kernel[...]) for each in (before, run))
    assert not np.array_equal(*kernels)
    with pytest.raises(TrainError, match=r"config\.objective\.extra: .*quiet"):
        trained(corpus, tmp_path / "own", ())


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ("nowhere.py:quiet", "there is no file nowhere.py"),
        ("{corpus}/mine.py:loud", "has no function loud"),
        ("{corpus}/mine.py:wrong", "wrong returned .* two numbers"),
        ("{corpus}/mine.py:ce", "there is a loss ce already"),
        ("mine:quiet", r"config\.objective\.extra: must be pairs"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(corpus, tmp_path, extra, text):
    with pytest.raises(ConfigError, match=text):
        start(recipe(corpus, "align", objective__extra=((extra.format(corpus=corpus), 1.0),)), tmp_path / "run")
