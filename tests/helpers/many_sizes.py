"""Dialogues of many sizes on disk, and what rows of them may be asked for."""

import json

import numpy as np
import soundfile

from ieat_jax.config.sections import InjectionConfig, Shapes, SourceConfig
from ieat_jax.data.layout import LayoutOptions
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.open import open_sources
from ieat_jax.packing.spec import RowSpec
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

WORDS = "the user feels sad because i lost my keys and you are kind so take your time with it".split()  # noqa: SIM905
CODEC = {"name": "stub", "rate": 50, "vocab_size": 40, "hash": "0"}
OPTIONS = {
    "write": ("text", LayoutOptions()),
    "align": ("audio", LayoutOptions(teacher=True)),
    "joint": ("audio", LayoutOptions(speech=True, unit_end=40)),
    "twins": ("audio", LayoutOptions(speech=True, internalise=True, internalise_units=True, unit_end=40)),
    "all": ("audio", LayoutOptions(teacher=True, speech=True, internalise=True, unit_end=40)),
}


def some_turn(rng, number, audio):
    def words(most):
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    entry = {"turn_id": number, "text": words(9), "response_text": words(12), "split_audio_file": audio}
    ours = {}
    if rng.random() < 0.8:
        ours["emotion"] = {"label": str(rng.choice(["sad", "happy", "neutral"])), "source": "gold"}
    if rng.random() < 0.5:
        ours["cause"] = {"text": words(5)}
    if rng.random() < 0.3:
        ours["events"] = ["sigh"]
    if rng.random() < 0.1:
        ours["think"] = {"text": words(9)}
    ours["response"] = {"emotion": "comfort"} if rng.random() < 0.7 else {}
    if rng.random() < 0.8:
        ours["response"]["units"] = rng.integers(0, 40, rng.integers(0, 24)).tolist()
    return entry | {"ieat": ours}


def write_corpus(folder):
    """40 dialogues of 1 to 14 turns, a third of them Chinese by name."""
    rng = np.random.default_rng(0)
    for number in range(6):
        length = int(rng.integers(2000, 14_000))
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.normal(size=length).clip(-3, 3), 16_000)
    lines = []
    for number in range(40):
        count = int(rng.integers(1, 15 if number % 4 == 0 else 4))
        turns = [some_turn(rng, place + 1, f"{rng.integers(6)}.wav") for place in range(count)]
        meta = {"codec": CODEC, "language": "zh" if number % 3 == 0 else "en"}
        lines.append(json.dumps({"dialogue_id": f"d{number}", "turns": turns, "ieat_meta": meta}))
    (folder / "all.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def spec_of(name, *, shared=False, **changes):
    user, options = OPTIONS[name]
    tokenizer = train_tokenizer([" ".join(WORDS), "这是因为用户感到悲伤我应该用安慰的语气回答"] * 4, 400)
    fields = {
        "chat": ChatFormat(tokenizer, True, "You are kind.", "You speak."),
        "clip_seconds": 1.0,
        "num_mels": 4,
        "clip_positions": lambda frames: -(-frames // 16),
        "clip_slot": lambda frames: frames // 16 * 16 + 16,
        "stride": 16,
        "shapes": Shapes(
            tokens=700,
            clips=6 if user == "audio" else 0,
            targets=500,
            answers=7,
            teacher_tokens=800 if options.teacher else 0,
            speak=500 if options.speech else 0,
            groups=60 if options.speech else 0,
            frames=320 if user == "audio" and shared else 0,
        ),
        "options": options,
        "injection": InjectionConfig(decay_examples=60),
        "user": user,
        "pack": 5,
        "privileged": True,
        "seed": 3,
        "window": 20,
    }
    return RowSpec(**(fields | changes))


def opened(folder, name="all"):
    quarantine = Quarantine(0.5)
    return open_sources({"all": SourceConfig(str(folder / f"{name}.jsonl"))}, quarantine), quarantine
