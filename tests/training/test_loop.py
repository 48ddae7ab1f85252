"""Whole runs of a tiny model: resume, hand-over between stages, what trains, and errors for people."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

import ieat_jax.training.loop as loop
from ieat_jax.config.recipes import from_json, to_json
from ieat_jax.errors import UserError
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import load_run
from ieat_jax.training.resume import TrainError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Programs for one device compile fastest; `test_meshes...` uses more."""
    use_mesh(1, 1, 1, 1)
    yield
    use_mesh()


@pytest.fixture(scope="module")
def aligned(corpus, tmp_path_factory):
    """A finished align run of 4 steps, with checkpoints of steps 0, 2 and 4."""
    folder = tmp_path_factory.mktemp("runs") / "align"
    result = start(recipe(corpus, "align", checkpoint__initial=True, checkpoint__keep=5), folder)
    assert (result.step, result.preempted) == (4, False)
    return folder


def parameters(path, step=None):
    return {name: np.asarray(leaf) for name, leaf in named_leaves(load_run(path, step=step).model).items()}


def assert_equal_bits(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def metrics(path):
    lines = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "per_second")
    return [{name: value for name, value in line.items() if not name.endswith(timed)} for line in lines]


def test_only_what_the_rules_train_changes(aligned):
    before, after = parameters(aligned, 0), parameters(aligned, 4)
    for name in before:
        trained = ".lora_" in name or name.startswith(
            ("listen.adapter", "listen.mix", "listen.norm", "emotion.attribute")
        )
        changed = not np.array_equal(before[name], after[name])
        if name.startswith("emotion.style"):
            continue  # no loss of this stage reads it
        assert changed == trained, name
    frozen = {path.name for path in (aligned / "frozen").iterdir()}
    assert frozen
    names = {line["step"] for line in metrics(aligned)}
    assert names == {2, 4}


def test_the_log_has_every_loss_part(aligned):
    last = metrics(aligned)[-1]
    assert {"loss", "kl", "eot", "ce", "attribute", "ce_state", "ce_response", "grad_norm", "learning_rate"} <= set(
        last
    )
    parts = last["kl"] + last["eot"] + last["ce"] + 0.1 * last["attribute"]
    assert last["loss"] == pytest.approx(parts, rel=0.05)  # the mean of two steps' ratios against the ratio of sums
    assert list((aligned / "tensorboard").iterdir())


def test_a_run_that_is_asked_to_leave_saves_and_goes_on_later(corpus, tmp_path, aligned, monkeypatch):
    class Leave(loop.Preemption):
        def requested(self, step):
            return step == 1

    config = recipe(corpus, "align", checkpoint__initial=True, checkpoint__keep=5)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Preemption", Leave)
        result = start(config, tmp_path / "run")
    assert (result.step, result.preempted) == (1, True)
    assert start(config, tmp_path / "run").step == 4
    assert_equal_bits(parameters(aligned), parameters(tmp_path / "run"))


def test_joint_starts_from_align_and_says_what_is_loaded_and_what_is_new(corpus, tmp_path, aligned, capsys):
    """Its LoRA is merged, since this stage has none."""
    allow = (".*",)  # the run before began from random numbers
    config = recipe(
        corpus, "joint", init__checkpoint=str(aligned), init__allow_new=allow, tokenizer__path="",
        train__steps=1, train__log_every=1, optimizer__warmup_steps=0, checkpoint__initial=True,
    )  # fmt: skip
    start(config, tmp_path / "joint")
    printed = capsys.readouterr().out
    assert f"loaded from {aligned} step 4: emotion.attribute (2)" in printed
    assert "copied within the model: speak" in printed
    assert "new (random): speak (2)" in printed
    report = json.loads((tmp_path / "joint" / "handover.json").read_text())
    assert sorted(report["new"]) == ["speak.embed", "speak.heads"]
    assert report["copied"]["speak.layers.mlp.up.kernel"] == "write.layers.mlp.up.kernel"
    assert all(name.startswith("speak.") for name in report["copied"])
    before, after = parameters(aligned), parameters(tmp_path / "joint", 0)
    name = "write.layers.mlp.up.kernel"
    low = np.einsum("ndr,nrh->ndh", before[f"{name[:-7]}.lora_a"], before[f"{name[:-7]}.lora_b"]) * 8.0
    np.testing.assert_allclose(after[name], before[name] + low, atol=1e-6)
    assert np.abs(low).max() > 1e-6
    assert not any(".lora_" in name for name in after)
    with pytest.raises(
        UserError, match=r"init\.allow_new .*speak \(2\): neither in .* nor declared new \(speak\.embed, sp"
    ):
        start(recipe(corpus, "joint", init__checkpoint=str(aligned), init__allow_new=("(?!speak).*",)), tmp_path / "no")


@pytest.mark.parametrize(("mesh", "accumulate"), [((1, 1, 1, 1), 1), ((1, 2, 1, 2), 4)])
def test_meshes_and_micro_batches_give_the_same_losses(corpus, tmp_path, mesh, accumulate):
    use_mesh(*mesh)
    config = recipe(corpus, "joint", train__accumulate=accumulate, train__log_every=1, train__steps=3)
    try:
        start(config, tmp_path / "run")
    finally:
        use_mesh(1, 1, 1, 1)
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    expected = test_meshes_and_micro_batches_give_the_same_losses.__dict__.setdefault("losses", losses)
    assert losses == pytest.approx(expected, rel=2e-5)


def test_clips_that_share_a_window_train_as_those_with_windows_of_their_own(corpus, tmp_path):
    fields = {"model__listen__padding": "masked", "data__pack": 2}
    fields |= {"train__steps": 3, "train__log_every": 1, "data__shapes__clips": 4, "data__shapes__answers": 4}
    fields |= {"data__shapes__tokens": 512, "data__shapes__teacher_tokens": 512, "data__shapes__targets": 400}
    found = []
    for name, frames in (("own", 0), ("shared", 480)):
        start(recipe(corpus, "align", data__shapes__frames=frames, **fields), tmp_path / name)
        found.append(metrics(tmp_path / name))
    assert found[1][0].pop("fill_frames") > 0.2
    for own, shared in zip(*found, strict=True):
        for part in ("loss", "attribute", "kl", "grad_norm", "ce_response"):
            assert shared[part] == pytest.approx(own[part], rel=2e-4), part


def test_resuming_with_another_configuration_is_refused(corpus, tmp_path, aligned):
    run = tmp_path / "run"
    shutil.copytree(aligned, run)
    with pytest.raises(TrainError, match=r"config\.objective\.kl: 1\.0 then, 2\.0 now"):
        start(recipe(corpus, "align", objective__kl=2.0), run)


@pytest.mark.parametrize(
    ("stage", "fields", "text"),
    [
        ("align", {"train__accumulate": 3}, r"config\.data\.batch_size = 8 does not divide"),
        ("align", {"tokenizer__path": ""}, r"config\.tokenizer\.path is empty"),
        ("joint", {"codec": ""}, r"set config\.codec"),
        ("joint", {"model__speak__unit_vocab_size": 99}, r"unit_vocab_size = 99, but the codec ieat-mel has 34"),
        ("joint", {"model__speak__group_size": 2}, r"config\.model\.speak\.group_size: must be one of 4, not 2"),
        ("align", {"model__llm__vocab_size": 100}, "is too small for it"),
        ("align", {"init__checkpoint": "/nowhere/run"}, "/nowhere/run"),
        ("align", {"data__sources": {}}, "names no records"),
        ("align", {"data__shapes__tokens": 20}, r"config\.data\.shapes\.tokens is 20"),
    ],
)
def test_mistakes_are_errors_that_name_the_field(corpus, tmp_path, stage, fields, text):
    with pytest.raises(UserError, match=text):
        start(recipe(corpus, stage, **fields), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(corpus, tmp_path):
    config = recipe(corpus, "write", optimizer__learning_rate=1e30, optimizer__clip_norm=0.0, train__steps=12)
    config = from_json(to_json(config))
    with config.unlocked():
        config.optimizer.max_bad_steps = 2
    with pytest.raises(TrainError, match=r"not finite .* steps in a row .*learning_rate"):
        start(config, tmp_path / "run")


def test_half_precision_follows_full_precision(corpus, tmp_path, aligned):
    config = recipe(corpus, "align", model__dtype="bfloat16")
    start(config, tmp_path / "run")
    full, half = metrics(aligned), metrics(tmp_path / "run")
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.02)
    assert half[0]["loss"] != full[0]["loss"]
    assert {leaf.dtype for leaf in parameters(tmp_path / "run").values()} == {np.dtype(np.float32)}
