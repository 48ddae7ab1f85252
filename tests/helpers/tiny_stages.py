"""A complete tiny run: corpus with audio and units, tokenizer, codec, and recipes of the three stages."""

import dataclasses
import json
import types

import jax
import numpy as np
import soundfile

import ieat_jax.training.loop as loop
from ieat_jax.codecs.mel import train_mel_codec
from ieat_jax.config.defaults import get_defaults, source
from ieat_jax.config.recipes import normal, to_section, typed
from ieat_jax.model.config import (
    AdapterConfig,
    EncoderConfig,
    ListenConfig,
    LLMConfig,
    LoraConfig,
    ModelConfig,
    SpeakConfig,
)
from ieat_jax.model.sharding import MESH_AXES, make_mesh
from ieat_jax.text.tokenizer import train_tokenizer
from ieat_jax.training.step import make_step

TEXTS = ["I lost my keys.", "The bus was late.", "We won the match.", "It is raining.", "He called me back."]
CODES = 32


def buzz(number, seconds=0.6):
    """A voice-like sound that differs from number to number."""
    rng = np.random.default_rng(number)
    time = np.arange(int(16000 * seconds)) / 16000
    pitch = 150 + 15 * number + 20 * np.sin(2 * np.pi * 2 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    wave = sum(np.sin(k * phase) / k for k in range(1, 8)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return (0.05 * wave + 0.001 * rng.normal(size=time.size)).astype(np.float32)


def write_corpus(folder, *, records=8):
    """train.jsonl with user audio, reply audio and units; tokenizer/; codec/."""
    codec = train_mel_codec([buzz(number, 1.5) for number in range(4)], codes=CODES)
    codec.save(folder / "codec")
    train_tokenizer(TEXTS * 3 + ["The user feels sad. I should answer in a happy tone because"], 320).save(
        folder / "tokenizer"
    )
    lines = []
    for number in range(records):
        turns = []
        for turn in range(1 + number % 2):
            name = f"{number}_{turn}.wav"
            soundfile.write(folder / name, buzz(number + turn), 16000)
            label = ("sad", "happy", "anger")[number % 3]
            turns.append(
                {
                    "turn_id": turn + 1,
                    "text": TEXTS[(number + turn) % 5],
                    "emotion": label,
                    "split_audio_file": name,
                    "response_text": f"I see. {TEXTS[number % 5]}",
                    "ieat": {
                        "emotion": {"label": label, "source": "gold"},
                        "response": {"emotion": "comfort", "units": codec.encode(buzz(number + 7, 0.3)).tolist()},
                    },
                }
            )
        meta = {"language": "en", "codec": codec.identity()}
        lines.append(json.dumps({"dialogue_id": f"d{number}", "turns": turns, "ieat_meta": meta}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def use_mesh(*sizes):
    """Let `train` use a mesh of these sizes over the first devices, whatever the config says; none = the config's."""
    if not sizes:
        loop.make_mesh = make_mesh
        return
    shape = types.SimpleNamespace(**dict(zip(MESH_AXES, sizes, strict=True)))
    loop.make_mesh = lambda _: make_mesh(shape, jax.devices()[: int(np.prod(sizes))])


def recipe(folder, stage, **fields):
    """The configuration of a stage on `write_corpus`'s folder; `fields`: dotted names with __ for the dot."""
    config = get_defaults()
    config.stage = stage
    config.model = to_section(
        ModelConfig(
            listen=ListenConfig(
                EncoderConfig(num_layers=1, width=16, num_heads=4, mlp_width=32, num_mels=8, max_positions=50),
                AdapterConfig(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=8, mlp_width=32, conv_width=16),
                clip_seconds=1.0,
            ),
            llm=LLMConfig(
                vocab_size=320, width=16, mlp_width=32, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=8
            ),
            speak=SpeakConfig(enabled=stage == "joint", freeze_layer=1, unit_vocab_size=CODES + 2),
            lora=LoraConfig(rank=2 if stage == "align" else 0),
        )
    )
    config.tokenizer.path = str(folder / "tokenizer")
    config.data.sources.train = source(str(folder / "train.jsonl"))
    config.data.shapes.update(
        {"tokens": 256, "clips": 2, "targets": 192, "answers": 2, "teacher_tokens": 288, "speak": 320, "groups": 48}
    )
    config.data.batch_size = 8
    config.optimizer.warmup_steps = 2
    config.train.steps = 4
    config.train.log_every = 2
    config.checkpoint.every = 2
    if stage == "joint":
        config.codec = str(folder / "codec")
        config.objective.internalise = config.objective.internalise_units = 0.5
    if stage == "align":
        frozen = (r"listen\.encoder.*", None), (r"(think|write)\..*(kernel|scale|embed|head)", None)
        config.optimizer.rules = (*frozen, (".*", 1.0))
    for name, value in fields.items():
        *path, last = name.split("__")
        section = config
        for part in path:
            section = section[part]
        with section.ignore_type():
            section[last] = value
    return normal(config)


_STEPS = {}  # by what is compiled into them


def _kept(run, around):
    """`make_step` of `run`, which traces a program once in this process; attempts of one run have the same."""

    def make(*arguments, **options):
        if run.objective.extra:  # files that change
            return around(make_step(*arguments, **options))
        limit_aside = dataclasses.replace(run.optimizer, max_bad_steps=1)
        compiled_in = run.stage, run.model, run.objective, limit_aside, dataclasses.replace(run.train, log_every=1)
        key = repr(compiled_in), jax.sharding.get_mesh()
        if key not in _STEPS:
            _STEPS[key] = make_step(*arguments, **options)
        return around(_STEPS[key])

    return make


def idle(*_, **__):
    """In the place of `make_step`: a step that computes nothing, where what a run learns does not matter."""
    return lambda state, frozen, batch: (state, _nothing(state.optimizer.bad_steps))


@jax.jit
def _nothing(zero):
    number = zero.astype(np.float32)
    return {
        "loss": number,
        "grad_norm": number,
        "skipped": zero,
        "bad_in_a_row": zero,
        "parts": {"ce": (number, number)},
    }


def start(config, workdir, *, learns=True, around=lambda step: step):
    """Train, through the door that recipes take.

    Without `learns` everything is read and written, and no step is computed. `around` makes another step of each.
    """
    run, before = typed(config), loop.make_step
    if before is make_step:  # and not another one, which a test put there
        loop.make_step = _kept(run, around) if learns else idle
    try:
        return loop.train(run, workdir)
    finally:
        loop.make_step = before
