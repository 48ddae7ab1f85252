"""`prepare show`, through the command: what is shown is what training gets, and texts stay texts."""

import base64
import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.tiny_stages import write_corpus
from rich.cells import cell_len

from ieat_jax import prepare
from ieat_jax.audio.files import read_audio
from ieat_jax.config.recipes import load_config, typed
from ieat_jax.data.batch import RESPONSE
from ieat_jax.errors import UserError
from ieat_jax.packing.pipeline import make_batches
from ieat_jax.showing.read import read_batch
from ieat_jax.showing.terminal import print_view
from ieat_jax.training.planned import plan_recipe

TESTS = Path(__file__).parents[1]
RECIPE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.tiny_stages import recipe

def get_config(stage):
    config = recipe(Path({corpus!r}), stage)
    config.data.pack, config.data.batch_size = 4, 3
    config.data.shapes.tokens, config.data.shapes.targets, config.data.shapes.teacher_tokens = 900, 600, 900
    config.data.shapes.clips = config.data.shapes.answers = 4
    config.data.shapes.speak, config.data.shapes.groups = 1000, 60
    return config
"""
ODD = '<script>alert(1)</script> [red]no[/red] \x1b[31m\u202ekeys & "q" ' + "W" * 90
STAGES = ("write", "align", "joint")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve dialogues; the first says odd things, under an odd name."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, records=12)
    lines = [json.loads(line) for line in (folder / "train.jsonl").open()]
    lines[0]["dialogue_id"] = "d0 <b>bold</b> [bold]"
    lines[0]["turns"][0]["text"] = ODD
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "mine.py").write_text(RECIPE.format(tests=str(TESTS), corpus=str(folder)))
    return folder


def shown(corpus, capsys, stage, *arguments):
    assert prepare.main(["show", "--config", f"{corpus}/mine.py:{stage}", *arguments]) == 0
    return capsys.readouterr().out


def view_of(corpus, stage, step, *overrides):
    """(the view, the batch that training gets at that step, its plan)."""
    read = plan_recipe(typed(load_config(f"{corpus}/mine.py:{stage}", overrides)))
    batches = make_batches(read.parts.sources, read.spec, read.plan, batch_size=3, steps=read.config.train.steps)
    return read_batch(read, step, 3, recipe="mine"), batches[step - 1].batch, read


def turns_of(view):
    return [turn for row in view.rows for dialogue in row.dialogues for turn in dialogue.turns]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("step", [1, 4])
def test_what_is_shown_is_the_batch_that_training_gets(stage, step, corpus):
    view, batch, read = view_of(corpus, stage, step)
    decode = read.spec.chat.tokenizer.decode
    for number, row in enumerate(view.rows):
        branches = batch.branch_ids[number]
        answers = [spans for dialogue in row.dialogues for turn in dialogue.turns for spans in (turn.answer, turn.twin)]
        answers = [spans for spans in answers if spans]
        assert len(answers) == branches.max()
        for branch, spans in enumerate(answers, 1):
            said = "".join(span.text for span in spans)
            places = np.flatnonzero(branches == branch)
            assert re.sub(r"<\|im_end\|>|</?think>", "", said) == decode(batch.tokens[number][places])
            assert sum(span.tokens for span in spans) == len(places)
        spans = list(itertools.chain(*answers))
        learned = sum(span.tokens for span in spans if span.kind != "given")
        assert learned == row.fill["targets"][0] == (batch.target_at[number] >= 0).sum()
        responses = sum(span.tokens for span in spans if span.kind == "response" and "ce" in span.weights)
        assert responses == (batch.target_kind[number] == RESPONSE).sum()
        assert row.fill["tokens"][0] == (batch.segment_ids[number] > 0).sum()
        assert sum(dialogue.tokens for dialogue in row.dialogues) == row.fill["tokens"][0]
        assert row.fill.get("clips", (0,))[0] == (batch.clip_frames[number] > 0).sum()
        sounds = [turn.sound for dialogue in row.dialogues for turn in dialogue.turns if turn.sound]
        heard = [at for sound in sounds for at in sound.places]
        assert heard == np.flatnonzero(batch.audio_index[number] >= 0).tolist()
        assert [round(100 * sound.seconds) for sound in sounds] == [n for n in batch.clip_frames[number] if n]
        groups = sum(turn.groups for dialogue in row.dialogues for turn in dialogue.turns)
        assert groups == (batch.speak_answer[number] >= 0).sum()
    assert len(turns_of(view)) > 3


def test_student_and_teacher_side_by_side(corpus):
    """In align the student hears, and the teacher reads words and feelings; in write the student reads those."""
    (source,) = view_of(corpus, "align", 1)[2].parts.sources
    records = {record.dialogue_id: record for record in map(source.record, range(len(source)))}
    aligned, written, joined = (view_of(corpus, stage, 1)[0] for stage in ("align", "write", "joint"))
    for view in (aligned, written, joined):
        for row in view.rows:
            for dialogue in row.dialogues:
                for turn in dialogue.turns:
                    record = records[dialogue.name].turns[turn.number - 1]
                    assert turn.said == record.text
                    read = {"align": turn.taught, "write": turn.read, "joint": None}[view.stage]
                    if read is not None:
                        assert read.startswith(record.text)
                        assert re.search(r" \(.*(sad|happy|angry)", read.removeprefix(record.text))
                    assert (turn.sound is None) == (view.stage == "write")
                    if turn.sound:
                        assert turn.sound.path == record.audio
                    if turn.supervised:
                        assert record.response_text in "".join(span.text for span in turn.answer)
    assert {turn.taught for turn in (*turns_of(written), *turns_of(joined))} == {None}
    assert all(turn.twin for turn in turns_of(joined) if turn.supervised and turn.mode != "empty")
    assert not any(turn.twin for turn in (*turns_of(written), *turns_of(aligned)))


def test_weights_are_those_of_the_objective(corpus):
    fields = {"ce": 2, "kl": 3, "eot": 5, "kl_think": 0.5, "format_weight": 0, "segment_weights.state": 7}
    overrides = [f"--config.objective.{name}={value}" for name, value in fields.items()]
    view, _, _ = view_of(corpus, "align", 1, *overrides, "--config.data.injection.mode=explicit")
    found = {}
    for turn in turns_of(view):
        for span in turn.answer:
            found.setdefault(span.kind, set()).add(tuple((name, by) for name, by in span.weights.items() if by))
    assert found == {
        "given": {()},
        "perceive": {(("ce", 2), ("kl", 1.5))},
        "state": {(("ce", 14), ("kl", 1.5))},
        "trajectory": {(("ce", 2), ("kl", 1.5))},
        "plan": {(("ce", 2), ("kl", 1.5))},
        "format": {(("kl", 1.5),)},
        "response": {(("ce", 2), ("kl", 3))},
        "end of turn": {(("ce", 2), ("eot", 5))},
    }
    twins = view_of(corpus, "joint", 1, "--config.objective.internalise=0.25", "--config.data.injection.mode=explicit")[
        0
    ]
    spans = [span for turn in turns_of(twins) for span in turn.twin]
    assert {(span.kind, tuple(span.weights.items())) for span in spans if span.kind != "given"} == {
        ("response", (("internalise", 0.25),)), ("end of turn", (("internalise", 0.25),))}  # fmt: skip


@pytest.mark.parametrize("mode", ["explicit", "partial", "empty"])
def test_modes_of_thinking(mode, corpus, capsys):
    out = shown(corpus, capsys, "align", "--rows", "3", f"--config.data.injection.mode={mode}")
    modes = re.findall(r"supervised, thinking (\w+)", out)
    assert len(modes) > 3
    assert set(modes) <= {mode, "empty"} if mode == "partial" else set(modes) == {mode}
    assert mode in modes


def test_history_is_context_only(corpus, capsys):
    """A row too small for both turns of a dialogue: the second begins with the first as history."""
    out = shown(corpus, capsys, "align", "--rows", "3", "--config.data.shapes.answers=1", "--config.data.pack=1")
    before, after = out.split("turn 1: context only")[:2]
    assert before
    first, second = re.split(r"turn 2: supervised", after, maxsplit=1)
    assert "later read as" in first
    assert "response" not in first
    assert "response" in second


@pytest.mark.parametrize("stage", STAGES)
def test_plain_text_keeps_to_80_columns_and_says_what_texts_say(stage, corpus, capsys):
    out = shown(corpus, capsys, stage, "--rows", "3", "--step", "1", "--config.data.shapes.tokens=1500")
    steps = [out] + [shown(corpus, capsys, stage, "--rows", "3", "--step", str(step)) for step in (2, 3)]
    everything = "\n".join(steps)
    assert max(cell_len(line) for line in everything.splitlines() if not line.startswith("recipe")) <= 80
    assert "\x1b" not in everything
    assert "\u202e" not in everything
    assert "d0 <b>bold</b> [bold]" in everything
    assert r"[red]no[/red] \x1b[31m\u202ekeys" in re.sub(r"\s+", " ", everything)


def test_a_terminal_gets_colours_and_no_orders_from_texts(corpus):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    for step in (1, 2, 3):
        print_view(view_of(corpus, "align", step, "--config.data.shapes.tokens=1500")[0], terminal)
    out = terminal.getvalue()
    assert "\x1b[1;32m" in out or "\x1b[32m" in out
    assert "\x1b[31mkeys" not in out
    assert r"\x1b[31m" in out
    assert "\u202e" not in out


class _Page(HTMLParser):
    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.found, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("stage", STAGES)
def test_the_page_is_whole_offline_and_lets_one_hear_every_clip(stage, corpus, capsys, tmp_path):
    out = tmp_path / "new" / "batch.html"
    said = ""
    for step in (1, 2, 3):
        shown(corpus, capsys, stage, "--rows", "3", "--step", str(step), "--html", str(out))
        text, page = out.read_text(encoding="utf-8"), _Page()
        page.feed(text)
        assert page.open == []
        tags = [tag for tag, _ in page.found]
        assert not {"script", "link", "b", "iframe"} & set(tags)
        links = [value for _, names in page.found for key, value in names.items() if key in ("src", "href")]
        assert all(link.startswith(("data:", "#")) for link in links)
        assert all(names.get("alt") for tag, names in page.found if tag == "img")
        view, _, read = view_of(corpus, stage, step)
        sounds = [turn.sound for turn in turns_of(view) if turn.sound]
        players = [names for tag, names in page.found if tag == "audio"]
        assert len(players) == len(sounds)
        for player, sound in zip(players, sounds, strict=True):
            assert player["aria-label"]
            heard, _ = soundfile.read(io.BytesIO(base64.b64decode(player["src"].partition(",")[2])), dtype="float32")
            wanted = read_audio(sound.path, max_seconds=1.0, root=read.parts.sources[0].audio_root)
            np.testing.assert_allclose(heard, wanted, atol=2**-14)
        shades = {float(names["style"][4:]) for tag, names in page.found if "seg" in names.get("class", "").split()}
        assert max(shades) == 1.0
        said += page.text
    assert "d0 <b>bold</b> [bold]" in said
    assert r'<script>alert(1)</script> [red]no[/red] \x1b[31m\u202ekeys & "q"' in said


def test_weights_of_the_run_before_are_not_needed(corpus, capsys, tmp_path):
    """A recipe that begins from another run takes that run's tokenizer; its parameters are not read."""
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "tokenizer").symlink_to(corpus / "tokenizer")
    begins = [f"--config.init.checkpoint={tmp_path}/earlier", "--config.tokenizer.path="]
    assert shown(corpus, capsys, "align", *begins) == shown(corpus, capsys, "align")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--step", "5"], r"^--step 5: the run has 4 steps \(config.train.steps\); choose one of 1 to 4$"),
        (["--step", "0"], r"^--step 0: the run has 4 steps"),
        (["--step", "-3"], r"^--step -3: the run has 4 steps"),
        (["--rows", "0"], r"^--rows 0: show at least 1$"),
        (["--config.data.shapes.tokns=3"], r"tokns"),
        (["--config.data.shapes.tokens=20"], r"no dialogue fits into a row"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(arguments, told, corpus):
    with pytest.raises(UserError, match=told):
        prepare.main(["show", "--config", f"{corpus}/mine.py:align", *arguments])


def test_a_step_that_is_no_number_is_refused(corpus, capsys):
    with pytest.raises(SystemExit) as told:
        prepare.main(["show", "--config", f"{corpus}/mine.py:align", "--step", "last"])
    assert told.value.code == 2
    assert "argument --step: invalid int value: 'last'" in capsys.readouterr().err
