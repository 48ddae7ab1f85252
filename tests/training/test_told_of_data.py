"""What a run says of its data, and where it ends: what an epoch draws, and turns that cannot be trained."""

import json
import re

import pytest
from helpers.tiny_stages import TEXTS, recipe, start, use_mesh, write_corpus

from ieat_jax.config.defaults import source
from ieat_jax.data.quarantine import QuarantineError

EMOTIONS = ("sad", "happy", "anger", "fear", "surprise")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(autouse=True)
def one_device():
    use_mesh(1, 1, 1, 1)
    yield
    use_mesh()


def write_dialogue(path, turns, change=lambda turn: None):
    """A dialogue whose user feels otherwise in every turn."""
    made = [
        {"turn_id": n + 1, "text": TEXTS[n % 5], "emotion": EMOTIONS[n % 5], "response_text": "I see."}
        for n in range(turns)
    ]
    for turn in made:
        change(turn)
    path.write_text(json.dumps({"dialogue_id": "long", "turns": made, "ieat_meta": {"language": "en"}}) + "\n")


def run(corpus, workdir, **sources):
    """A run of two or three epochs of stage `write`, of {name: (file, weight)}."""
    config = recipe(corpus, "write", train__steps=8, train__log_every=1, data__batch_size=6, checkpoint__every=100)
    config.data.shapes.update({"tokens": 640, "targets": 512})
    config.data.sources = {name: source(str(path), weight=weight) for name, (path, weight) in sources.items()}
    start(config, workdir, learns=False)


def test_where_weights_make_an_epoch_other_than_each_turn_once_the_run_says_so(corpus, tmp_path, capsys):
    lines = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("few", lines[:4]), ("many", lines)):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
    many, few = tmp_path / "many.jsonl", tmp_path / "few.jsonl"
    run(corpus, tmp_path / "run", few=(few, 3.0), many=(many, 1.0))
    told = "drawn by weight, in an epoch each of few 2.25, of many 0.375 times"
    out = capsys.readouterr().out
    assert re.search(rf"data: 12 dialogues an epoch, which takes about \d steps; {told}", out), out
    epochs = re.findall(r"^epoch (\d): 12 dialogues drawn, in \d+ rows; .*", out, re.MULTILINE)
    assert epochs[:2] == ["1", "2"]
    assert out.count(told) == 1 + len(epochs)
    # Weights as the sizes are: each once, and nothing to say.
    run(corpus, tmp_path / "even", few=(few, 1.0), many=(many, 2.0))
    out = capsys.readouterr().out
    assert "epoch 1: 12 dialogues drawn" in out
    assert "drawn by weight" not in out


def test_late_turns_of_a_long_dialogue_are_trained(corpus, tmp_path, capsys):
    """What is told of its trajectory does not grow with it."""
    write_dialogue(tmp_path / "long.jsonl", 200)
    run(corpus, tmp_path / "run", long=(tmp_path / "long.jsonl", 1.0))
    assert "cannot be trained" not in capsys.readouterr().out
    assert not (tmp_path / "run/quarantine.jsonl").exists()


def test_turns_count_against_the_share_that_may_be_bad(corpus, tmp_path, capsys):
    def change(turn):
        if turn["turn_id"] > 30:
            turn["response_text"] = "so " * 400

    write_dialogue(tmp_path / "long.jsonl", 60, change)
    lines = (corpus / "train.jsonl").read_text() * 8
    numbered = [re.sub('"d(.)"', rf'"d\1-{n}"', line) for n, line in enumerate(lines.splitlines(keepends=True))]
    (tmp_path / "many.jsonl").write_text("".join(numbered))
    sources = {"long": (tmp_path / "long.jsonl", 1.0), "many": (tmp_path / "many.jsonl", 1.0)}
    with pytest.raises(QuarantineError) as told:
        run(corpus, tmp_path / "run", **sources)
    assert "30 of 156 turns cannot be trained, more than the accepted share of 0.02 (config.data.max" in str(told.value)
    assert "of 1 records alone. First: " in str(told.value)
    assert "long: turn 31 alone needs up to" in str(told.value)
    assert "\n" not in str(told.value)
