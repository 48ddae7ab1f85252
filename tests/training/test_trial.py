"""`train --check`: what a run would fail of is said in seconds, and nothing is written."""

import contextlib
import shutil
from pathlib import Path

import pytest
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

from ieat_jax import train
from ieat_jax.config.recipes import to_json
from ieat_jax.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    use_mesh(1, 1, 1, 1)
    with contextlib.chdir(folder):
        start(recipe(Path(), "write", train__steps=1), "write", learns=False)
        for name, step in (("empty", False), ("damaged", True)):
            shutil.copytree("write", name)
            shutil.rmtree(f"{name}/checkpoints")
            Path(f"{name}/checkpoints").mkdir()
            if step:
                Path(f"{name}/checkpoints/1").mkdir()
    use_mesh()
    return folder


@pytest.fixture
def try_out(corpus, monkeypatch):
    """`train --check` on the recipe of a stage, in the folder of the corpus: FIELD="override", ... -> exit code."""
    monkeypatch.chdir(corpus)

    def call(stage, *flags, base=None, **overrides):
        made = to_json(recipe(Path(), stage, **(base or {})))
        Path(f"{stage}.py").write_text(
            f"import json\nfrom ieat_jax.config.recipes import normal\n"
            f"def get_config():\n    return normal(json.loads({made!r}))\n"
        )
        given = [f"--config.{name.replace('__', '.')}={value}" for name, value in overrides.items()]
        before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
        code = train.main(["--config", f"{stage}.py", "--check", *flags, *given])
        assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before
        return code

    return call


@pytest.mark.parametrize("stage", ["write", "align", "joint"])
def test_a_run_that_can_begin_passes(try_out, capsys, stage):
    assert try_out(stage, train__steps=1, optimizer__warmup_steps=20) == 0
    assert capsys.readouterr().out == f"{stage}.py: nothing wrong is known; stage {stage}, 1 steps\n"


WRONG = {
    "a field that is not there": ({"train__stpes": 1}, "there is no field config.train.stpes"),
    "a value out of its range": ({"train__steps": 0}, "config.train.steps: must be at least 1"),
    "a rule for nothing": (
        {"optimizer__rules": "(('lisen.*', 1.0), ('.*', None))"},
        "config.optimizer.rules: 'lisen.*' matches no parameter",
    ),
    "a mesh that does not fit": ({"mesh__tensor": 3}, "config.mesh.tensor=3"),
    "rows that do not divide": ({"data__batch_size": 12}, "config.data.batch_size = 12 does not divide"),
    "heads that do not divide": ({"model__llm__num_heads": 3}, "config.model.llm.num_kv_heads: 4 does not divide"),
    "no tokenizer there": ({"tokenizer__path": "tokeniser"}, "config.tokenizer.path: there is no tokeniser; "),
    "another file as tokenizer": ({"tokenizer__path": "train.jsonl"}, "train.jsonl"),
    "a tokenizer that is too large": ({"model__llm__vocab_size": 64}, "the tokenizer has 320 tokens"),
    "no records there": (
        {"data__sources__train__records": "test.jsonl"},
        "config.data.sources.train.records: there is no",
    ),
    "no records named": ({"data__sources__train__records": ""}, "config.data.sources.train.records is empty"),
    "no recordings there": (
        {"data__sources__train__audio_root": "x"},
        "config.data.sources.train.audio_root: there is no",
    ),
    "no weight": ({"data__sources__train__weight": 0}, "config.data.sources names no records"),
    "a codec of other units": ({"model__speak__unit_vocab_size": 9}, "config.model.speak.unit_vocab_size = 9"),
    "no codec there": ({"codec": "codex"}, "config.codec: there is no codex"),
    "no earlier run there": ({"init__checkpoint": "alin"}, "config.init.checkpoint: there is no alin"),
    "an earlier run that is none": ({"init__checkpoint": "codec"}, "codec: no training run here"),
    "Whisper of another size": ({"init__whisper": "package:whisper-base"}, "package:whisper-base is another model"),
    "weights that are not there": ({"init__llm": "package:nobody"}, "nobody"),
    "a loss of a file that is not there": ({"objective__extra": "(('mine.py:loss', 1.0),)"}, "mine.py"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_run_would_fail_of_is_said(try_out, name):
    overrides, message = WRONG[name]
    with pytest.raises(UserError) as told:
        try_out("joint", **overrides)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


# Of a run that begins from another: what both doors say.
BEGINNINGS = {
    "joint from a run that hears nothing": ("joint", "write", {}, r"as they were drawn .* stage write did not train"),
    "align from one without Whisper": ("align", "write", {}, r"write has .*listen\.encoder \(\d+\).* as they "),
    "no codec anywhere": (
        "joint", "write", {"init__allow_new": (".*",), "codec": ""}, "a joint run that speaks needs a unit codec"
    ),
    "no checkpoint": ("write", "empty", {}, "empty: the run has no checkpoint yet"),
    "no intact checkpoint": ("write", "damaged", {}, r"damaged/checkpoints: no intact checkpoint \(step 1"),
    "other sizes": (
        "write", "write", {"model__llm__mlp_width": 48}, r"mlp.* has shape .*, config\.model wants .*; set the sizes"
    ),
    "no tokenizer": ("write", "", {"tokenizer__path": ""}, r"config\.tokenizer\.path is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", BEGINNINGS)
def test_what_a_run_would_fail_of_in_its_beginning_is_said_by_check_in_the_same_words(name, try_out, corpus, tmp_path):
    stage, earlier, fields, message = BEGINNINGS[name]
    fields = {"init__checkpoint": earlier, "model__speak__enabled": stage == "joint", **fields}
    with pytest.raises(UserError, match=message) as told:
        try_out(stage, base=fields)
    use_mesh(1, 1, 1, 1)
    try:
        with pytest.raises(UserError) as then:
            start(recipe(Path(), stage, **fields), tmp_path / "run")
    finally:
        use_mesh()
    assert str(told.value) == str(then.value)
    assert not (tmp_path / "run").exists()  # nothing is left behind, no folder either
    assert len(str(told.value)) < 900


def test_what_an_earlier_run_has_is_used_by_check_too(try_out):
    """Its tokenizer, and what it trained."""
    assert try_out("write", base={"init__checkpoint": "write", "tokenizer__path": ""}) == 0
    allowed = {"init__checkpoint": "write", "tokenizer__path": "", "init__allow_new": (".*",)}
    assert try_out("align", base=allowed) == 0


def test_check_looks_at_the_run_that_is_in_the_workdir(try_out, tmp_path):
    assert try_out("write", "--workdir", "write") == 0
    assert try_out("write", "--workdir", str(tmp_path / "new")) == 0
    with pytest.raises(UserError, match="write: holds a run of stage write, "):
        try_out("align", "--workdir", "write")
    shutil.copytree("write", tmp_path / "copy")
    config = tmp_path / "copy/config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match=r"config\.json was changed"):
        try_out("write", "--workdir", str(tmp_path / "copy"))


def test_an_earlier_run_that_is_made_later_may_have_begun(try_out):
    assert try_out("joint", "--made-later", ".", init__checkpoint="empty") == 0


def test_what_is_made_later_need_not_be_there(try_out, capsys):
    absent = {"tokenizer__path": "later/tokenizer", "codec": "later/codec", "init__checkpoint": "later/align"}
    with pytest.raises(UserError, match=r"config.tokenizer.path: there is no later/tokenizer"):
        try_out("joint", **absent)
    assert try_out("joint", "--made-later", "later", **absent) == 0
    with pytest.raises(UserError, match=r"config.init.checkpoint: there is no later/\.\./align"):
        try_out("joint", "--made-later", "later", **absent | {"init__checkpoint": "later/../align"})


def test_made_later_belongs_to_check(corpus):
    with pytest.raises(UserError, match="--made-later belongs to --check"):
        train.main(["--config", "configs/demo.py:write", "--workdir", "x", "--made-later", "y"])
