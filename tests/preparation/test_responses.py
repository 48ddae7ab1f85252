"""The LLM's own replies: to what the teacher reads, once for every distinct prompt, kept beside what was there."""

import json

import numpy as np
import pytest
from helpers.fake_endpoint import endpoint
from safetensors.numpy import save_file

from ieat_jax import prepare
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import parse_record, read_records, write_records
from ieat_jax.errors import UserError
from ieat_jax.inference.generator import Reply
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.interop.families.llm import huggingface_config, layer_leaves, outer_leaves
from ieat_jax.model.config import LLMConfig
from ieat_jax.preparation.responses import add_responses, text_generator, told
from ieat_jax.text.tokenizer import train_tokenizer


class Echo:
    """Stands for a generator: answers with what it was asked, and remembers the requests."""

    def __init__(self, ended=True, tail=""):
        self.asked, self.ended, self.tail = [], ended, tail

    def reply(self, dialogues, *, think, done=None):
        assert not think
        self.asked += [tuple((turn.text, turn.response) for turn in turns) for turns in dialogues]
        return [self.answer(turns) for turns in dialogues]

    def answer(self, turns):
        text = f"You say:\n{turns[-1].text}{self.tail}" if turns[-1].text != "?" else ""
        return Reply("", text, None, None, True, self.ended, False, ())


def record(name, *turns):
    listed = [
        {"turn_id": number, "text": text, "emotion": emotion, "ieat": {"tone": "low"}}
        | ({"response_text": reply} if reply else {})
        for number, (text, emotion, reply) in enumerate(turns, 1)
    ]
    return parse_record({"dialogue_id": name, "turns": listed, "mine": 1})


def test_equal_prompts_are_answered_once_from_words_and_feeling():
    records = [record("a", ("Hm.", "sad", None)), record("b", ("Hm.", "sad", None)), record("c", ("Hm.", "fear", None))]
    echo = Echo()
    values, prompts = add_responses(records, echo, "model:x")
    assert prompts == len(echo.asked) == 2
    first, second, third = (value["turns"][0] for value in values)
    assert first["response_text"] == second["response_text"] == f"You say: {told(records[0], 0)}"
    assert "sad" in first["response_text"]
    assert "afraid" in third["response_text"]
    assert first["ieat"] == {"tone": "low", "response": {"source": "model:x"}}
    assert values[0]["mine"] == 1
    assert "response_text" not in records[0].turns[0].raw


def test_later_turns_follow_the_replies_and_a_reply_that_was_there_stays():
    dialogue = record("a", ("One.", "sad", "Kept."), ("Two.", None, None), ("Three.", None, None))
    echo = Echo()
    values, _ = add_responses([dialogue], echo, "model:x")
    replies = [turn["response_text"] for turn in values[0]["turns"]]
    assert replies == ["Kept.", "You say: Two.", "You say: Three."]
    assert echo.asked[1] == ((told(dialogue, 0), "Kept."), ("Two.", "You say: Two."), ("Three.", None))
    assert "response" not in values[0]["turns"][0]["ieat"]


def test_a_reply_that_was_cut_keeps_its_whole_sentences():
    values, _ = add_responses([record("a", ("One.", None, None))], Echo(ended=False, tail=" And th"), "model:x")
    assert values[0]["turns"][0]["response_text"] == "You say: One."


def test_no_answer_is_an_error_that_names_the_prompt():
    with pytest.raises(UserError, match=r"model:x answers nothing to '\?'"):
        add_responses([record("a", ("?", None, None))], Echo(), "model:x")


class Picky(Echo):
    """Refuses all dialogues together if one of them holds an exclamation mark."""

    def reply(self, dialogues, *, think, done=None):
        for turns in dialogues:
            if "!" in turns[-1].text:
                raise UserError(f"the prompt is too long: {turns[-1].text}")
        return super().reply(dialogues, think=think, done=done)


def test_a_dialogue_that_cannot_be_answered_is_left_out_and_named():
    names = "abcdefghij"
    records = [record(name, (f"{name}.", None, None), (f"{name}{name}.", None, None)) for name in names]
    records[3] = record("d", ("d.", None, None), ("d!", None, None))
    records[6] = record("g", ("?", None, None), ("g.", None, None))
    quarantine, picky = Quarantine(1.0), Picky()
    values, prompts = add_responses(records, picky, "model:x", quarantine)
    assert [value is None for value in values] == [name in "dg" for name in names]
    assert values[0]["turns"][1]["response_text"] == "You say: aa."
    assert {name: code for name, (code, _) in quarantine.notes.items()} == {"d": "not_answered", "g": "not_answered"}
    assert "turn 2: the prompt is too long: d!" in quarantine.notes["d"][1]
    assert prompts == 9 + 8
    with pytest.raises(UserError, match="too long: d!"):
        add_responses(records[:5], Picky(), "model:x")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """A Hugging Face folder with a tiny random Llama."""
    config = LLMConfig(
        vocab_size=300, width=16, mlp_width=16, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=8, norm_eps=1e-5
    )
    folder, rng = tmp_path_factory.mktemp("llm"), np.random.default_rng(0)
    shapes = {leaf.theirs: leaf.their_shape for leaf in outer_leaves(config).values()}
    for leaf in layer_leaves(config).values():
        shapes |= {f"model.layers.{index}.{leaf.theirs}": leaf.their_shape for index in range(2)}
    save_file(
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(huggingface_config(config, max_positions=128)))
    train_tokenizer(["system user assistant I lost my keys. The user feels sad."] * 4, 300).save(folder)
    return folder


def test_the_command_writes_the_llms_replies_for_every_file(llm, tmp_path, capsys):
    for name in ("train", "test"):
        write_records(tmp_path / f"{name}.jsonl", [record(name, ("Hm.", "sad", None))])
    files = [str(tmp_path / f"{name}.jsonl") for name in ("train", "test")]
    command = ["responses", "--records", *files, "--llm", str(llm), "--max-tokens", "5", "--system-text", "Be kind."]
    assert prepare.main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "1 distinct prompts" in capsys.readouterr().out
    read = [read_records(tmp_path / "out" / f"{name}.jsonl")[0] for name in ("train", "test")]
    assert read[0].turns[0].response_text == read[1].turns[0].response_text != ""
    assert read[0].turns[0].raw["ieat"]["response"]["source"] == f"model:{llm}"
    with pytest.raises(UserError, match="would overwrite"):
        prepare.main([*command, "--out", str(tmp_path)])


def test_a_local_llm_is_asked_once_and_replayed(llm, tmp_path, capsys):
    write_records(tmp_path / "a.jsonl", [record("a", ("Hm.", "sad", None)), record("b", ("Well.", None, None))])
    command = ["responses", "--records", str(tmp_path / "a.jsonl"), "--llm", str(llm), "--max-tokens", "5"]
    assert prepare.main([*command, "--out", str(tmp_path / "one")]) == 0
    said = capsys.readouterr().out
    assert "2 questions: 2 to ask" in said
    assert "2 questions asked" in said
    answers = ("--answers", str(tmp_path / "one/answers.jsonl"))
    assert prepare.main([*command, "--out", str(tmp_path / "two"), *answers, "--replay"]) == 0
    assert (tmp_path / "two/a.jsonl").read_bytes() == (tmp_path / "one/a.jsonl").read_bytes()
    assert prepare.main([*command, "--out", str(tmp_path / "three"), "--dry-run"]) == 0
    assert not (tmp_path / "three").exists()


def test_a_local_llm_is_asked_for_attributes(llm, tmp_path):
    """It says nothing that can be used: everything is left out, asked twice, and the records stay what they were."""
    write_records(tmp_path / "a.jsonl", [record("a", ("Hm.", "sad", None))])
    fields = "\n".join(f'- "{name}"' for name in ("emotion", "intensity", "cause", "style", "think"))
    (tmp_path / "en.txt").write_text("{dialogue} {turn}\n" + fields)
    command = ["attribute", str(tmp_path / "a.jsonl"), "--llm", str(llm), "--max-tokens", "5"]
    command += ["--prompts", str(tmp_path), "--out", str(tmp_path / "out")]
    assert prepare.main([*command, "--max-bad-share", "1"]) == 0
    assert (tmp_path / "out/a.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    answers = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").open()]
    assert [len(answer["turns"]) for answer in answers] == [1, 2]
    assert answers[0]["model"] == str(llm)
    notes = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").open()]
    assert [note["id"] for note in notes] == [f"a: turn 1: {name}" for name in ("intensity", "cause", "style")]
    assert {note["code"] for note in notes} == {"no_json"}


def test_an_endpoint_answers_turn_after_turn(tmp_path, capsys):
    """What it refuses leaves its dialogue out; when it goes away, what it has answered is not asked again."""

    def answer(body, number):
        said = body["messages"][-1]["content"]
        if "refuse" in said:
            return 400, {}, b"no"
        return (401, {}, b"gone") if "leave" in said and served.answers else f"{len(body['messages'])}: {said}"

    dialogues = [record("a", ("One.", None, None), ("leave", None, None)), record("b", ("refuse", None, None))]
    write_records(tmp_path / "a.jsonl", dialogues)
    command = ["responses", "--records", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--model", "wise"]
    with endpoint(answer) as served:
        served.answers = True
        command += ["--llm", served.address, "--max-bad-share", "0.5", "--system-text", "Be kind."]
        with pytest.raises(UserError, match="HTTP 401: gone"):
            prepare.main(command)
        assert not (tmp_path / "out/a.jsonl").exists()
        served.answers, before = False, len(served.requests)
        assert prepare.main(command) == 0
        assert [body["messages"][-1]["content"] for body in served.bodies[before:]] == ["refuse", "leave"]
    (one,) = read_records(tmp_path / "out/a.jsonl")
    assert [turn.response_text for turn in one.turns] == ["2: One.", "4: leave"]
    assert one.turns[0].raw["ieat"]["response"]["source"] == "model:wise"
    assert "left out 1 of 2 records (1 x not_answered)" in capsys.readouterr().out


def test_the_prompt_is_what_the_teacher_reads(llm):
    generator = text_generator(str(llm), "Be kind.")
    chat = generator.chat
    prompt = generator.prompts.build([UserTurn(text="I lost my keys.")], think=False, speech=False)
    words = chat.tokenizer.encode("I lost my keys.")
    assert prompt.tokens.tolist() == [*chat.system(), *chat.user_open, *words, *chat.user_close]
