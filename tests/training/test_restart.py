"""What an attempt begins with: the newest intact checkpoint, or what the configuration names, never random numbers."""

import dataclasses
import json
import re
import resource
import shlex
import shutil

import numpy as np
import pytest
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

import ieat_jax.training.loop as loop
from ieat_jax import evaluate, generate
from ieat_jax.errors import UserError
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import load_run


@pytest.fixture(scope="module", autouse=True)
def one_device():
    use_mesh(1, 1, 1, 1)
    yield
    use_mesh()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A corpus, `first`, and `second`, which begins from it; both of 4 steps, of which `second` has checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder)
    start(first(folder), folder / "first")
    start(second(folder), folder / "second")
    return folder


def first(folder, **fields):
    """All runs here are of one program."""
    return recipe(folder, "write", **{"data__batch_size": 2, "checkpoint__every": 9, **fields})


def second(folder):
    return first(folder, init__checkpoint=str(folder / "first"), checkpoint__every=1, checkpoint__keep=5)


def parameters(path):
    return {name: np.asarray(leaf).tobytes() for name, leaf in named_leaves(load_run(path).model).items()}


def loaded(path):
    report = json.loads((path / "handover.json").read_text())
    return len(report["loaded"]), len(report["new"])


def test_a_run_killed_in_its_first_save_begins_from_its_source_again(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs / "second", run)
    for step in (2, 3, 4):
        shutil.rmtree(run / f"checkpoints/{step}")
    (run / "checkpoints/1").rename(run / "checkpoints/1.orbax-checkpoint-tmp")
    start(second(runs), run)
    assert "loaded from" in capsys.readouterr().out
    assert loaded(run) == loaded(runs / "second")
    assert loaded(run)[1] == 0
    assert parameters(run) == parameters(runs / "second")


def test_a_run_whose_only_checkpoint_is_damaged_does_not_begin_anew(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "second", run)
    for step in (2, 3, 4):
        shutil.rmtree(run / f"checkpoints/{step}")
    for file in (run / "checkpoints/1").rglob("d/*"):
        file.write_bytes(b"")
    before = (run / "handover.json").read_text()
    for _ in range(2):
        with pytest.raises(UserError, match=r"no intact checkpoint \(.*1"):
            start(second(runs), run)
        assert (run / "handover.json").read_text() == before
    shutil.rmtree(run / "checkpoints")  # as the message says
    start(second(runs), run)
    assert (run / "handover.json").read_text() == before
    assert parameters(run) == parameters(runs / "second")


def test_a_run_that_begins_anew_says_so_and_keeps_what_was_logged(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs / "second", run)
    shutil.rmtree(run / "checkpoints")
    logged = (run / "metrics.jsonl").read_bytes()
    start(second(runs), run)
    told = f"{run}: an earlier attempt left no checkpoint here, and the run begins anew; what was logged is kept in "
    assert f"{told}metrics.1.jsonl\n" in capsys.readouterr().out
    assert (run / "metrics.1.jsonl").read_bytes() == logged
    assert parameters(run) == parameters(runs / "second")


@pytest.mark.parametrize("finished", [True, False])
def test_a_configuration_that_was_changed_is_refused_and_one_that_is_gone_written_anew(
    finished, runs, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(runs / "second", run)
    if not finished:
        shutil.rmtree(run / "checkpoints/4")
    config = run / "config.json"
    before = config.read_text()
    for other in (before.replace('"seed": 0', '"seed": 1'), "{", "", "\udcff"):
        config.write_text(other, errors="surrogateescape")
        with pytest.raises(
            UserError, match=r"run: config\.json was changed .*restore config\.json from a copy or delete"
        ):
            start(second(runs), run)
        assert config.read_bytes() == other.encode(errors="surrogateescape")
    config.unlink()
    capsys.readouterr()
    start(second(runs), run)
    assert f"{run}: config.json is gone; it is written anew" in capsys.readouterr().err
    assert config.read_text() == before


def test_a_folder_of_something_else_keeps_its_configuration(runs, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a config\.json that no run wrote"):
        start(second(runs), tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"config.json": "{}"}


def test_a_run_that_hears_nothing_needs_no_recordings_to_go_on(runs, tmp_path):
    (tmp_path / "moved").mkdir()
    shutil.copy(runs / "train.jsonl", tmp_path / "moved")
    shutil.copytree(runs / "first", tmp_path / "first")
    again = first(runs, data__sources__train__records=str(tmp_path / "moved/train.jsonl"))
    assert start(again, tmp_path / "first").step == 4


def test_a_changed_key_of_orbaxs_metadata_costs_one_step(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs / "second", run)
    file = run / "checkpoints/4/trainable/_METADATA"
    file.write_text(file.read_text().replace('"key": "think"', '"key": "thinj"', 1))
    start(second(runs), run)
    printed = capsys.readouterr().out
    assert (
        "4 is damaged and skipped: trainable/_METADATA was changed after it was written; renamed to 4.corrupt"
        in printed
    )
    assert f"resuming from step 3 of {run}" in printed
    assert parameters(run) == parameters(runs / "second")


def assert_next(printed, run):
    """The commands after a run's end can be given: their options are known, their paths are there."""
    talk = re.search(r"^talk to it: python -m ieat_jax\.generate (.*)$", printed, re.MULTILINE)[1]
    score = re.search(r"^measure it: python -m ieat_jax\.evaluate (.*)$", printed, re.MULTILINE)[1]
    assert generate._parser().parse_args(shlex.split(talk)).checkpoint == run
    assert evaluate._parser().parse_args(shlex.split(score)).checkpoint == run
    assert f"config.init.checkpoint = '{run}'" in printed


def test_a_run_that_ends_says_where_it_is_and_what_to_do_next(runs, tmp_path, capsys):
    run = tmp_path / "my run"
    start(second(runs), run)
    printed = capsys.readouterr().out
    assert f"finished: 4 of 4 steps, in {run}" in printed
    assert "compiling the step" in printed
    assert_next(printed, run)


def test_a_finished_run_says_so_and_computes_nothing(runs, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(runs / "second", run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "config.json"}
    monkeypatch.setattr(loop, "make_step", lambda *_, **__: pytest.fail("a step was made"))
    assert start(second(runs), run).step == 4
    printed = capsys.readouterr().out
    assert f"already finished: 4 of 4 steps, in {run}" in printed
    assert "resuming" not in printed
    assert_next(printed, run)
    kept = {path for path in before if path.name not in ("claim.json", "manifest.json")}
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: before[path] for path in kept}


def test_a_finished_run_whose_last_step_is_damaged_is_finished_again(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs / "second", run)
    file = max((run / "checkpoints/4").rglob("d/*"), key=lambda path: path.stat().st_size)
    (run / "checkpoints/4/manifest.json").unlink()  # large files are known by their size alone
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert start(second(runs), run).step == 4
    printed = capsys.readouterr().out
    assert "already finished: 4 of 4 steps" in printed
    assert f"resuming from step 3 of {run}" in printed
    assert parameters(run) == parameters(runs / "second")


@pytest.mark.parametrize(("stage", "allow"), [("align", ()), ("joint", ()), ("align", ("stage", "data"))])
def test_a_workdir_of_another_stage_is_refused_by_its_stage(runs, tmp_path, monkeypatch, stage, allow):
    monkeypatch.setattr(loop, "gather", lambda *_, **__: pytest.fail("tokenizer and data were read"))
    with pytest.raises(UserError, match=rf"first: holds a run of stage write, config\.stage is {stage}; every stage"):
        start(recipe(runs, stage, checkpoint__allow_changes=allow), runs / "first")


SIZES = {"write": ("tokens",), "align": ("tokens", "teacher_tokens"), "joint": ("tokens", "speak")}


@pytest.mark.parametrize(("stage", "size"), [(stage, size) for stage, sizes in SIZES.items() for size in sizes])
def test_a_row_that_no_turn_fits_into_is_refused_before_weights_are_made(runs, tmp_path, monkeypatch, stage, size):
    monkeypatch.setattr(loop, "initialise", lambda *_, **__: pytest.fail("weights were made"))
    config = recipe(runs, stage, **{f"data__shapes__{size}": 8})
    with pytest.raises(UserError, match=rf"no dialogue fits .* needs \d+ {size}, config\.data\.shapes\.{size} is \d; "):
        start(config, tmp_path / "run")


def lines(path):
    """Lines of metrics, without what depends on the clock."""
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(("seconds", "per_second"))} for line in found]


def poisoned(step):
    """A step after which the gradient is not finite any more."""

    def call(state, frozen, batch):
        state, metrics = step(state, frozen, batch)
        return dataclasses.replace(state, trainable={k: v * 1e30 for k, v in state.trainable.items()}), metrics

    return call


@pytest.mark.parametrize("finite", [True, False], ids=["finite", "not-finite"])
def test_metrics_are_over_the_same_steps_wherever_a_run_was_stopped(runs, tmp_path, monkeypatch, finite):
    config = first(runs, train__log_every=3, optimizer__max_bad_steps=9)
    around = {} if finite else {"around": poisoned}
    start(config, tmp_path / "whole", **around)

    class Leave(loop.Preemption):
        def requested(self, step):
            return True

    monkeypatch.setattr(loop, "Preemption", Leave)
    for step in range(1, 5):
        assert start(config, tmp_path / "parted", **around).step == step
    assert lines(tmp_path / "parted") == lines(tmp_path / "whole")
    assert [line["step"] for line in lines(tmp_path / "whole")] == [3, 4]
    assert (lines(tmp_path / "whole")[0]["grad_norm"] is None) == (not finite)


def test_metrics_that_cannot_be_written_stop_no_run(runs, tmp_path, capsys):
    (tmp_path / "run/metrics.jsonl").mkdir(parents=True)
    (tmp_path / "run/tensorboard").write_text("")
    assert start(second(runs), tmp_path / "run").step == 4
    assert "metrics.jsonl: cannot be written (Is a directory)" in capsys.readouterr().err
    assert parameters(tmp_path / "run") == parameters(runs / "second")


@pytest.mark.parametrize("room", [0, 1000, 20_000])
def test_a_full_disk_is_a_sentence_whenever_it_is_noticed(runs, tmp_path, room):
    """A file may have so many bytes: the claim's, the tokenizer's, a checkpoint's are too large."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(
            UserError, match=r"run.*(cannot be written|could not be saved).*(File too large|os_error|Errno)"
        ):
            start(second(runs), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if room == 20_000:
        start(second(runs), tmp_path / "run")  # with room again
        assert parameters(tmp_path / "run") == parameters(runs / "second")
