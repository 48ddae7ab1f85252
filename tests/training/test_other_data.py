"""A run does not go on over other data, whatever is other about them: the same ids, other content."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

from ieat_jax.audio.files import read_audio, write_wav
from ieat_jax.errors import UserError
from ieat_jax.text.tokenizer import train_tokenizer
from ieat_jax.training.resume import TrainError


def first_turn(change):
    def edit(folder):
        path = folder / "train.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        change(lines[0]["turns"][0])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    return edit


def recording(change):
    def edit(folder):
        line = json.loads((folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
        path = folder / line["turns"][0]["split_audio_file"]
        write_wav(path, change(read_audio(path, max_seconds=60)))

    return edit


def other_path(turn):
    turn["split_audio_file"] = "./" + turn["split_audio_file"]


OTHER = {
    "a word": first_turn(lambda turn: turn.update(text=turn["text"] + " Now.")),
    "a label": first_turn(
        lambda turn: turn.update(emotion="fear", ieat=turn.get("ieat", {}) | {"emotion": {"label": "fear"}})
    ),
    "a reply": first_turn(lambda turn: turn.update(response_text="Something else.")),
    "a key that nobody reads": first_turn(lambda turn: turn.update(note="new")),
    "an audio path": first_turn(other_path),
    "a recording of another length": recording(lambda sound: np.concatenate([sound, sound[:800]])),
    "a recording of the same length": recording(lambda sound: -sound),
}


def config(**fields):
    return recipe(Path(), "align", train__steps=2, **fields)  # all paths start at the current folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two steps and its data, in one folder."""
    folder = tmp_path_factory.mktemp("begun")
    write_corpus(folder)
    use_mesh(1, 1, 1, 1)
    with contextlib.chdir(folder):
        start(config(), "run", learns=False)
    yield folder
    use_mesh()


@pytest.fixture
def copy(begun, tmp_path, monkeypatch):
    shutil.copytree(begun, tmp_path / "copy", copy_function=shutil.copyfile)  # with new times
    monkeypatch.chdir(tmp_path / "copy")


@pytest.mark.parametrize("other", OTHER)
def test_other_content_under_the_same_ids_is_refused(copy, other):
    OTHER[other](Path())
    what = "recordings" if "recording" in other else "records"
    with pytest.raises(TrainError) as told:
        start(config(), "run")
    assert str(told.value) == (
        f"this run began with another configuration (config.data.sources.train.records: other {what} than then); use a "
        "new workdir, or name what may differ: config.checkpoint.allow_changes=('data.sources.train.records',)"
    )
    start(config(checkpoint__allow_changes=("data.sources.train.records",)), "run")


def test_moved_data_are_the_same_data(copy, capsys):
    Path("elsewhere").mkdir()
    for path in (*Path().glob("*.wav"), Path("train.jsonl"), Path("tokenizer")):
        path.rename(Path("elsewhere") / path.name)
    source = {"data__sources__train__records": "elsewhere/train.jsonl"}
    with pytest.raises(UserError, match="nowhere: there is no such"):
        start(config(**source, tokenizer__path="nowhere"), "run")
    start(config(**source, tokenizer__path="elsewhere/tokenizer"), "run")
    assert "already finished: 2 of 2 steps" in capsys.readouterr().out
    Path("elsewhere/train.jsonl").rename("train.jsonl")
    start(config(tokenizer__path="elsewhere/tokenizer", data__sources__train__audio_root="elsewhere"), "run")
    assert "already finished: 2 of 2 steps" in capsys.readouterr().out


def test_another_tokenizer_under_another_path_is_refused(copy):
    train_tokenizer(["some other words"] * 3, 300).save("other")
    with pytest.raises(TrainError, match=r"\(config\.tokenizer\.path: 'tokenizer' then, 'other' now\)"):
        start(config(tokenizer__path="other"), "run")


def test_a_copy_of_the_data_is_the_same_data(copy, capsys):
    start(config(), "run")
    assert "already finished: 2 of 2 steps" in capsys.readouterr().out
