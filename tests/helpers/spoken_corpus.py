"""Spoken dialogues whose recordings are of all kinds, as JSON lines, and as shards made without Beam."""

import hashlib
import json
from pathlib import Path

import numpy as np
import soundfile

from ieat_jax.config.sections import InjectionConfig, Shapes, SourceConfig
from ieat_jax.data.batch import Batch
from ieat_jax.data.layout import LayoutOptions
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.array_record import SHARDS
from ieat_jax.data.sources.open import open_sources
from ieat_jax.packing.pipeline import make_batches, make_plan
from ieat_jax.packing.spec import RowSpec
from ieat_jax.preparation.shards.cut import cut, look_through
from ieat_jax.preparation.shards.gather import gather
from ieat_jax.preparation.shards.make import DialogueMaker, Settings, make_shard
from ieat_jax.storage import open_place
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

TEXTS = ["I lost my keys.", "The bus was late.", "We won the match.", "It is raining.", "He called me back."]
STEPS = (0, 1, 17)  # whose batches are compared
# name, rate, channels, subtype, peak: whole numbers of 16 kHz, and what is resampled, averaged or beyond -1..1
KINDS = {
    "plain.wav": (16000, 1, "PCM_16", 0.4),
    "full.wav": (16000, 1, "PCM_16", 1.0),
    "deep.flac": (16000, 1, "PCM_24", 0.4),
    "fast.wav": (44100, 2, "FLOAT", 0.9),
    "slow.flac": (22050, 1, "PCM_16", 0.7),
    "loud.wav": (48000, 1, "FLOAT", 1.9),
    "stereo.ogg": (16000, 2, "VORBIS", 0.5),
}


def sound(path, seed, rate, channels, subtype, peak, seconds=0.4):
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * (180 + 20 * seed) * time)[:, None] + 0.05 * rng.normal(size=(len(time), channels))
    soundfile.write(path, peak * wave / np.abs(wave).max(), rate, subtype=subtype)


def write(folder, dialogues=8):
    """A folder with all.jsonl: dialogues of one to three turns, some with units."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines, clips = [], 0
    for number in range(dialogues):
        turns = []
        for turn in range(1 + number % 3):
            name, kind = list(KINDS.items())[clips % len(KINDS)]
            file = f"{number}_{turn}_{name}"
            sound(folder / file, clips, *kind, seconds=0.3 + 0.05 * (clips % 4))
            clips += 1
            text = TEXTS[(number + turn) % 5]
            ours = {"emotion": {"label": ("sad", "happy")[number % 2]}, "response": {"emotion": "comfort"}}
            turns.append(
                {
                    "turn_id": turn + 1,
                    "text": text,
                    "response_text": f"I see. {text}",
                    "split_audio_file": file,
                    "ieat": ours,
                }
            )
        meta = {"language": "en", "corpus": "tones", "licence": "CC0"}
        lines.append(json.dumps({"dialogue_id": f"d{number}", "turns": turns, "ieat_meta": meta}))
    path = folder / "all.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def shards(path, out, count=3, quarantine=None, **settings):
    """Shards of a file of records, by the functions that Beam calls; the card."""
    settings = Settings(**({"clip_seconds": 30.0, "reply_seconds": 60.0} | settings))
    maker, files = DialogueMaker(settings), look_through([path], [path.parent])
    jobs = cut(files, count)
    for job in jobs:
        make_shard(job, maker, str(out / SHARDS))
    return gather(
        open_place(out, "--out"), files, jobs, maker.identity, Quarantine(0.0) if quarantine is None else quarantine
    )


def row_spec():
    chat = ChatFormat(train_tokenizer(TEXTS * 3 + ["The user feels sad. happy because"], 320), True, "Be kind.")
    return RowSpec(
        chat=chat,
        clip_seconds=1.0,
        num_mels=8,
        clip_positions=lambda frames: -(-frames // 16),
        clip_slot=lambda frames: frames // 16 * 16 + 16,
        stride=16,
        shapes=Shapes(tokens=512, clips=4, targets=320, answers=4, teacher_tokens=512, speak=0, groups=0),
        options=LayoutOptions(teacher=True),
        injection=InjectionConfig(mode="schedule", decay_examples=20),
        user="audio",
        pack=3,
        privileged=True,
        seed=3,
        window=4,
    )


def hashes(records, spec, **fields):
    """Hash of the batch of each of STEPS."""
    quarantine = Quarantine(0.0)
    sources = open_sources({"mine": SourceConfig(str(records), **fields)}, quarantine)
    plan = make_plan(sources, spec, quarantine)
    data = make_batches(sources, spec, plan, batch_size=2, steps=max(STEPS) + 1)
    found = []
    for step in STEPS:
        made = hashlib.sha256()
        for name in Batch.__dataclass_fields__:
            array = np.asarray(getattr(data[step].batch, name))
            made.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        found.append(made.hexdigest())
    return found
