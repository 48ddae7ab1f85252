"""A small corpus on disk: two single clips with neutral words, and a dialogue with a cause and speech units."""

import json

from helpers import tiny_run

from ieat_jax.audio.files import write_wav

REPLIES = {"happy": ("I love hearing that! Enjoy it!", "happy"), "sad": ("I'm so sorry. Take your time.", "comfort")}


def turn(number, emotion, audio, *, cause=None, units=None, **changes):
    text, style = REPLIES[emotion]
    ours = {"emotion": {"label": emotion}, "response": {"emotion": style}}
    if cause:
        ours["cause"] = {"text": cause, "evidence": []}
    if units:
        ours["response"]["units"] = units
    fields = {"turn_id": number, "text": "I lost my keys.", "emotion": emotion, "response_text": text, "ieat": ours}
    return fields | ({"split_audio_file": audio} if audio else {}) | changes


def record(name, turns, kind=None, **meta):
    return {"dialogue_id": name, "turns": turns, "ieat_meta": {"language": "en", "kind": kind} | meta}


def write(folder, records):
    (folder / "audio").mkdir(exist_ok=True)
    for number in range(4):
        write_wav(folder / "audio" / f"{number}.wav", tiny_run.voice(number))
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def records():
    units = [index % 20 for index in range(11)]
    spoken = [
        turn(1, "happy", "audio/2.wav"),
        turn(2, "sad", "audio/3.wav", cause="lost my keys", units=units),
    ]
    return [
        record("p1", [turn(1, "happy", "audio/0.wav")], "neutral_words"),
        record("p2", [turn(1, "sad", "audio/1.wav")], "neutral_words"),
        record("d1", spoken, "congruent", codec=tiny_run.StubCodec().identity()),
    ]
