"""What a run was stored with against what it is started with now: defaults, moved data, named changes."""

import copy
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.tiny_run import save_run
from helpers.tiny_stages import recipe

from ieat_jax.config.recipes import as_plain, fields, normal, typed
from ieat_jax.config.sections import RunConfig
from ieat_jax.packing.plan import ORDER
from ieat_jax.runs.folder import CONFIG, RunError, read_config, write_protected
from ieat_jax.training.resume import FREE_FIELDS, TrainError, check_allowed, check_resume

DATA = {"records": 8, "hash": "1", "content": "2", "audio": "3", "weight": 1.0}


def plain(folder=Path(), **changes):
    return as_plain(typed(recipe(folder, "align", **changes)))


def state(config=None, **data):
    return {"config": plain() if config is None else config, "data": data or {"train": DATA}}


DEFAULT = as_plain(RunConfig())
ALL = [name for name in fields(normal(copy.deepcopy(DEFAULT))) if name not in ("stage",)]


def without(config, name):
    made = copy.deepcopy(config)
    *path, last = name.split(".")
    section = made
    for part in path:
        section = section[part]
    del section[last]
    return made


@pytest.mark.parametrize("name", ALL)
def test_a_field_that_was_not_there_had_its_default(name):
    now = {"config": DEFAULT, "data": {}}
    check_resume({"config": without(DEFAULT, name), "data": {}}, now)


@pytest.mark.parametrize("section", [item.name for item in dataclasses.fields(RunConfig) if item.name != "stage"])
def test_a_section_that_was_not_there_had_its_defaults(section):
    check_resume({"config": without(DEFAULT, section), "data": {}}, {"config": DEFAULT, "data": {}})


def test_a_default_that_is_not_what_a_run_has_now_is_a_difference():
    then = without(plain(), "objective.kl")
    with pytest.raises(TrainError, match=r"\(config\.objective\.kl: 1\.0 then, 2\.0 now\)"):
        check_resume(state(then), state(plain(objective__kl=2.0)))


@pytest.mark.parametrize("before", [True, False])
def test_the_switch_of_earlier_versions_is_understood_and_switches_nothing_off(before, tmp_path):
    then = plain()
    then["checkpoint"]["allow_changes"] = before
    check_resume(state(then), state())
    with pytest.raises(TrainError, match=r"config\.seed: 0 then, 1 now"):
        check_resume(state(then), state(plain(seed=1)))
    run = save_run(tmp_path / "run")
    stored = json.loads((run / CONFIG).read_text())
    stored["checkpoint"]["allow_changes"] = before
    del stored["objective"]
    write_protected(run, CONFIG, json.dumps(stored))
    assert read_config(run) == typed(normal(stored | {"checkpoint": {}}))


def test_a_field_of_a_later_version_is_named_with_the_file(tmp_path):
    run = save_run(tmp_path / "run")
    stored = json.loads((run / CONFIG).read_text()) | {"later": 1}
    write_protected(run, CONFIG, json.dumps(stored))
    with pytest.raises(RunError, match=r"config\.json: there is no field config\.later; .* another version"):
        read_config(run)


@pytest.mark.parametrize("field", FREE_FIELDS)
def test_free_fields_exist(field):
    assert any(name == field or name.startswith(f"{field}.") for name in ALL)


def test_where_data_lie_does_not_matter():
    moved = plain(data__sources__train__records="there/t.jsonl", data__sources__train__audio_root="there")
    check_resume(state(), state(moved))
    by_path = state() | {"data": {"train.jsonl": DATA}}  # as early versions kept them
    check_resume(by_path, state(moved))
    known_then = {"records": 8, "hash": "1", "weight": 1.0}
    check_resume(state(train=known_then), state(moved))


@pytest.mark.parametrize(
    ("part", "words"),
    [("records", "another number of records"), ("hash", "other records"), ("audio", "other recordings")],
)
def test_other_data_are_named(part, words):
    other = DATA | {part: "4"}
    with pytest.raises(TrainError, match=rf"config\.data\.sources\.train\.records: {words} than then"):
        check_resume(state(), state(train=other))
    for name in ("data.sources.train.records", "data.sources", "data", " config.data.sources.train "):
        check_resume(state(), state(plain(checkpoint__allow_changes=(name,)), train=other))
    for name in ("data.sources.train.weight", "objective", "data.sources.tra"):
        with pytest.raises(TrainError, match=words):
            check_resume(state(), state(plain(checkpoint__allow_changes=(name,)), train=other))


def test_a_source_that_is_new_or_gone_is_one_difference():
    gone = {"config": without(plain(), "data.sources.train"), "data": {}}
    records = re.escape(repr(plain()["data"]["sources"]["train"]["records"]))
    new, old = "absent then, present now", "present then, absent now"
    for then, now, told in ((gone, state(), new), (state(), gone, old)):
        sentence = rf"\(config\.data\.sources\.train: {told} \(records {records}\)\); .*=\('data\.sources\.train',\)$"
        with pytest.raises(TrainError, match=sentence):
            check_resume(then, now)
    check_resume(gone, state(plain(checkpoint__allow_changes=("data.sources.train",))))


def test_what_may_differ_is_named_and_nothing_else_may():
    changed = {"objective__kl": 2.0, "seed": 3}
    with pytest.raises(TrainError, match=r"allow_changes=\('objective\.kl', 'seed',\)"):
        check_resume(state(), state(plain(**changed)))
    with pytest.raises(TrainError, match=r"\(config\.seed: 0 then, 3 now\)"):
        check_resume(state(), state(plain(**changed, checkpoint__allow_changes=("objective",))))
    check_resume(state(), state(plain(**changed, checkpoint__allow_changes=("objective.kl", "seed"))))


def test_batches_in_another_order_are_refused_unless_allowed():
    now = state() | {"order": ORDER}
    check_resume(now, now)
    with pytest.raises(TrainError, match="an earlier version of ieat_jax made other batches of the same data"):
        check_resume(state(), now)
    check_resume(state(), state(plain(checkpoint__allow_changes=("data.window",))) | {"order": ORDER})


def test_a_name_that_is_none_is_refused_with_the_nearest():
    check_allowed(typed(recipe(Path(), "align", checkpoint__allow_changes=("objective", "data.sources.gone"))))
    with pytest.raises(TrainError, match=r"no field or section objective\.kll; did you mean objective\.kl\?"):
        check_allowed(typed(recipe(Path(), "align", checkpoint__allow_changes=("objective.kll",))))


def test_a_run_in_another_folder_is_the_same_run(tmp_path):
    run = save_run(tmp_path / "run")
    shutil.copytree(run, tmp_path / "copy")
    assert read_config(tmp_path / "copy") == read_config(run)
