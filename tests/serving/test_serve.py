"""`python -m ieat_jax.serve` as its users have it: a process, and HTTP."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from helpers import tiny_run
from helpers.served import LIMITS, serve, user

import ieat_jax
from ieat_jax import generate
from ieat_jax.audio.files import write_wav

SAD = "The user feels sad. " * 3
TURN = [user(SAD)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    write_wav(folder / "hello.wav", tiny_run.voice(0))
    return tiny_run.save_run(folder / "run")


@pytest.fixture(scope="module")
def hello(run):
    return (run.parent / "hello.wav").read_bytes()


@pytest.fixture(scope="module")
def server(run):
    with serve(run) as running:
        yield running
        code, told = running.stop()
    assert (code, told) == (0, "")  # after all tests: no warning, no traceback


@pytest.fixture(scope="module")
def model(run):
    return ieat_jax.load(run, limits=tiny_run.LIMITS)


def message(status, answer):
    assert status == 200, answer
    return answer["choices"][0]["message"]


def test_it_says_where_it_is_and_that_it_is_alive(server):
    assert server.said == f"run answers at {server.address}/ (page) and {server.address}/v1 (OpenAI)\n"
    assert json.loads(server.send("GET", "/health")[1]) == {"status": "ok", "model": "run", "open": 0}
    listed = json.loads(server.send("GET", "/v1/models")[1])
    assert [each["id"] for each in listed["data"]] == ["run"]
    assert json.loads(server.send("GET", "/v1/models/run")[1]) == listed["data"][0]


def test_a_conversation_is_that_of_generate(run, hello, server, model, tmp_path, capsys):
    """Three turns, sound and words, by both doors; the client sends the answers back as it got them."""
    path = str(run.parent / "hello.wav")
    turns = ["--audio", path, "--text", SAD, "--audio", path]
    assert generate.main(["--checkpoint", str(run), *turns, *LIMITS, "--out", str(tmp_path / "r.wav")]) == 0
    printed = capsys.readouterr().out
    messages = []
    for number, said in enumerate((user(sound=hello), user(SAD), user(sound=hello)), 1):
        messages.append(said)
        status, answer = server.ask(messages, modalities=["text", "audio"], audio={"format": "wav", "voice": "default"})
        reply = message(status, answer)
        messages.append(reply)
        assert f"think> {reply['reasoning_content']}" in printed
        assert f"reply> {reply['content']}" in printed
        assert reply["audio"]["transcript"] == reply["content"]
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(reply["audio"]["data"])), dtype="int16")
        written, _ = soundfile.read(tmp_path / f"r_{number}.wav", dtype="int16")
        assert rate == 16000
        np.testing.assert_array_equal(heard, written)
    replies = [each["content"] for each in messages[1::2]]
    assert len(set(replies)) > 1
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    assert set(answer["choices"][0]["ieat"]["cut"]) <= {"thinking", "text", "sound"}


def test_a_stream_is_the_same_in_pieces(hello, server):
    asked = {"modalities": ["text", "audio"], "stream_options": {"include_usage": True}}
    chunks = server.stream([user(sound=hello)], **asked)
    whole = server.ask([user(sound=hello)], modalities=["text", "audio"])[1]
    *chunks, usage = chunks
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert {choice["finish_reason"] for choice in choices[:-1]} == {None}
    reply, end = whole["choices"][0]["message"], choices[-1]
    assert (end["finish_reason"], end["ieat"]) == (whole["choices"][0]["finish_reason"], whole["choices"][0]["ieat"])
    deltas = [choice["delta"] for choice in choices]
    for name, text in (("reasoning_content", reply["reasoning_content"]), ("content", reply["content"])):
        pieces = [delta[name] for delta in deltas if delta.get(name)]
        assert len(pieces) > 1
        assert "".join(pieces).strip() == text
    spoken = [delta["audio"] for delta in deltas if "audio" in delta]
    assert len({each["id"] for each in spoken}) == 1
    data = b"".join(base64.b64decode(each.get("data", "")) for each in spoken)
    heard, rate = soundfile.read(io.BytesIO(data), dtype="int16")  # a WAV whose head does not know its length
    written, _ = soundfile.read(io.BytesIO(base64.b64decode(reply["audio"]["data"])), dtype="int16")
    assert rate == 16000
    # Streamed sound is decoded chunk by chunk, and joined with a short fade.
    assert len(heard) == len(written)


def test_pcm16_is_24_khz(hello, server):
    asked = {"modalities": ["text", "audio"], "audio": {"format": "pcm16"}}
    whole = message(*server.ask([user(sound=hello)], modalities=["text", "audio"]))
    samples = soundfile.info(io.BytesIO(base64.b64decode(whole["audio"]["data"]))).frames
    data = message(*server.ask([user(sound=hello)], **asked))["audio"]["data"]
    chunks = server.stream([user(sound=hello)], **asked)
    deltas = [chunk["choices"][0]["delta"].get("audio", {}) for chunk in chunks]
    streamed = b"".join(base64.b64decode(delta.get("data", "")) for delta in deltas)
    assert len(base64.b64decode(data)) == len(streamed) == pytest.approx(2 * samples * 1.5, abs=4)
    assert streamed == base64.b64decode(data)


def test_a_spoken_reply_can_be_named_by_its_id(hello, server):
    first = message(*server.ask([user(sound=hello)], modalities=["text", "audio"]))
    by_id = [user(sound=hello), {"role": "assistant", "audio": {"id": first["audio"]["id"]}}, user(SAD)]
    by_words = [user(sound=hello), {"role": "assistant", "content": first["content"]}, user(SAD)]
    assert message(*server.ask(by_id)) == message(*server.ask(by_words))


def test_what_the_model_said_may_hold_any_character(server, model):
    said = "\0 <|im_end|>\x1f"
    found = message(*server.ask([*TURN, {"role": "assistant", "content": said}, *TURN]))
    history = model.reply(text=SAD, speech=False).history
    again = model.reply(text=SAD, speech=False, history=[history[0].answered(said.strip())])
    assert (found["content"], found["reasoning_content"]) == (again.text, again.thinking)


def test_thinking_can_be_left_out_and_replies_be_cut(server, model):
    reply = message(*server.ask([user(SAD)], reasoning_effort="none"))
    assert "reasoning_content" not in reply
    assert reply["content"] == model.reply(text=SAD, think=False, speech=False).text
    short = server.ask([user(SAD)], reasoning_effort="none", max_completion_tokens=2)[1]["choices"][0]
    assert short["finish_reason"] == "length"
    assert len(short["message"]["content"]) < len(reply["content"])
    assert short["ieat"]["cut"] == ["text"]


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_other_kinds_of_sound_are_heard(kind, server, model, tmp_path):
    soundfile.write(tmp_path / f"a.{kind}", np.stack([tiny_run.voice(0)] * 2, 1), 16000)
    sound = (tmp_path / f"a.{kind}").read_bytes()
    reply = message(*server.ask([user(SAD, sound=sound, kind=kind)]))
    expected = model.reply(tmp_path / f"a.{kind}", text=SAD, speech=False)
    assert (reply["content"], reply["reasoning_content"]) == (expected.text, expected.thinking)


def wav(seconds):
    file = io.BytesIO()
    soundfile.write(file, tiny_run.voice(0, seconds), 16000, format="WAV")
    return file.getvalue()


def sound(data):
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


HEARD = sound(base64.b64encode(wav(0.5)).decode())
WRONG = {
    "no JSON": (b"{", {}, 400, "not JSON"),
    "deep": (b"[" * 100_000, {}, 400, "not JSON"),
    "no object": (b"[]", {}, 400, "is a list"),
    "nothing": (b"{}", {}, 400, "at least one message"),
    "no list": ("hi", {}, 400, "at least one message"),
    "no messages": ([], {}, 400, "at least one message"),
    "a text": (["hi"], {}, 400, "messages[0] is a text"),
    "role": ([{"role": "tool", "content": "x"}], {}, 400, "messages[0].role is 'tool'"),
    "blank": ([user("  ")], {}, 400, "messages[0].content is empty"),
    "no content": ([{"role": "user"}], {}, 400, "messages[0].content is null"),
    "number": ([{"role": "user", "content": 5}], {}, 400, "messages[0].content is a number"),
    "surrogate": ([user("\ud800")], {}, 400, "not UTF-8"),
    "NUL": ([user("a\0b")], {}, 400, "NUL"),
    "part": ([{"role": "user", "content": [{"type": "image_url"}]}], {}, 400, "messages[0].content[0].type is 'image"),
    "two sounds": ([{"role": "user", "content": [HEARD, HEARD]}], {}, 400, "has 2 sounds"),
    "tools": ([{"role": "user", "content": "x", "tool_calls": [1]}], {}, 400, "messages[0].tool_calls is not"),
    "system": ([{"role": "system", "content": "Be rude."}, *TURN], {}, 400, "trained with one system text"),
    "two in a row": ([*TURN, *TURN], {}, 400, "two user messages in a row"),
    "answer first": ([{"role": "assistant", "content": "x"}], {}, 400, "answers a user message"),
    "answer last": ([*TURN, {"role": "assistant", "content": "x"}], {}, 400, "the last message has to be the user's"),
    "unknown id": ([*TURN, {"role": "assistant", "audio": {"id": "x"}}, *TURN], {}, 400, "'x' is not known"),
    "no answer": ([*TURN, {"role": "assistant"}, *TURN], {}, 400, "neither content nor audio.id"),
    "base64": ([{"role": "user", "content": [sound("?")]}], {}, 400, "is not base64"),
    "no sound": ([user(sound=b"RIFF")], {}, 400, "input_audio.data: "),
    "ogg": ([user(sound=b"x", kind="ogg")], {}, 400, "format is 'ogg'; it is one of wav, flac, mp3"),
    "too long": ([user(sound=wav(1.3))], {}, 400, "this model hears at most 1 s of a clip"),
    "too many tokens": ([user("sad " * 3000)], {}, 400, "this server reads 4096"),
    "model": (TURN, {"model": "gpt-4o-audio"}, 404, "there is no model 'gpt-4o-audio' here; there is 'run'"),
    "field": (TURN, {"logit_bias": {}}, 400, "'logit_bias' is not supported here"),
    "temperature": (TURN, {"temperature": 1}, 400, "temperature is 1; this server answers with 0"),
    "n": (TURN, {"n": 2}, 400, "n is 2"),
    "stream": (TURN, {"stream": "yes"}, 400, "stream is 'yes'; it must be true or false"),
    "usage": (TURN, {"stream_options": {"include_usage": True}}, 400, "stream_options"),
    "modalities": (TURN, {"modalities": ["video"]}, 400, "modalities is ['video']"),
    "audio": (TURN, {"audio": {"format": "wav"}}, 400, 'modalities has no "audio"'),
    "format": (TURN, {"modalities": ["text", "audio"], "audio": {"format": "opus"}}, 400, "audio.format is 'opus'"),
    "voice": (TURN, {"modalities": ["text", "audio"], "audio": {"voice": "alloy"}}, 400, "one voice, 'default'"),
    "effort": (TURN, {"reasoning_effort": "very"}, 400, "reasoning_effort is 'very'"),
    "tokens": (TURN, {"max_tokens": 0}, 400, "max_tokens is 0"),
    "whole tokens": (TURN, {"max_completion_tokens": True}, 400, "max_completion_tokens is True"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_gets_a_sentence(name, server):
    messages, options, status, sentence = WRONG[name]
    found, answer = server.ask(messages, **options)
    assert found == status
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert sentence in answer["error"]["message"]
    assert "Traceback" not in str(answer)
    assert "/tmp" not in str(answer)


def test_what_is_null_is_not_given(server):
    options = {"model": None, "temperature": None, "top_p": 1.0, "user": "anna", "n": 1, "stream": False}
    assert message(*server.ask([{"role": "user", "content": SAD, "name": None}], **options))["content"]


def test_wrong_places_and_kinds_get_a_sentence(server):
    for method, path, body, kind, status in (
        ("GET", "/v2", None, "", 404),
        ("GET", "/v1/models/other", None, "", 404),
        ("GET", "/v1/chat/completions", None, "", 405),
        ("POST", "/v1/chat/completions", b"{}", "text/plain", 415),
        ("POST", "/v1/chat/completions", b" " * ((32 << 20) + 1), "application/json", 413),
    ):
        found, answer = server.send(method, path, body, kind)
        assert found == status
        assert json.loads(answer)["error"]["message"]


def test_the_page_takes_nothing_from_elsewhere(server):
    status, page = server.send("GET", "/")
    assert status == 200
    assert b"http://" not in page.replace(b"http://127.0.0.1", b"")
    assert b"https://" not in page
    assert b'{"model": "run", "seconds": 1.0, "thinks": true, "speaks": true}' in page


def test_several_users_are_answered_in_turn(hello, server):
    """More at once than the model answers, all of them the same as alone."""
    alone = message(*server.ask([user(sound=hello)]))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.ask([user(sound=hello)]), range(6)))
    assert [message(*answer) for answer in answers] == [alone] * 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "70000"], "cannot listen at --host 127.0.0.1 --port 70000"),
        (["--host", "no.such.host.invalid", "--port", "0"], "cannot listen at --host no.such.host.invalid"),
        (["--queue", "-1"], "--queue is -1"),
        (["--max-prompt", "0"], "--max-prompt is 0"),
        (["--port", "0", "--temperature", "-1"], "temperature is -1"),
        (["--port", "0"], "there is no such folder"),
    ],
)
def test_what_cannot_be_served_is_a_sentence_and_2(arguments, sentence, tmp_path):
    command = [sys.executable, "-m", "ieat_jax.serve", "--checkpoint", str(tmp_path / "nowhere"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "ieat_jax.serve", "--checkpoint", str(tmp_path), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert f"--port {port} (Address already in use" in done.stderr


def test_sigterm_while_the_model_is_loaded_ends_with_0(tmp_path):
    code = "import signal, sys, time; from ieat_jax import serve; serve.load_generator = lambda _: time.sleep(60)"
    code += f"; print('there', flush=True); sys.exit(serve.main(['--checkpoint', {str(tmp_path)!r}, '--port', '0']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ)
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 0
    process.stdout.close()
