"""A trained run with a tiny random model, in memory and as a folder, for the tests of generation and scoring."""

import contextlib
import copy
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.codecs.mel import CONTEXT, MelCodec
from ieat_jax.codecs.source_filter import FEATURES
from ieat_jax.config.defaults import get_defaults
from ieat_jax.config.recipes import to_section, typed
from ieat_jax.inference.generator import Generator, Limits
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig
from ieat_jax.model.names import map_named
from ieat_jax.model.unified import build_model
from ieat_jax.runs.checkpoints import Checkpoints
from ieat_jax.runs.folder import Run, save_run_files
from ieat_jax.text.tokenizer import train_tokenizer

CONFIG = ModelConfig(
    listen=ListenConfig(
        EncoderConfig(num_layers=1, width=16, num_heads=2, mlp_width=16, num_mels=80),
        AdapterConfig(num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=16, conv_width=16),
        clip_seconds=1.0,
    ),
    llm=LLMConfig(
        vocab_size=320,
        width=32,
        mlp_width=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        tie_embeddings=False,
    ),
    speak=SpeakConfig(freeze_layer=0, unit_vocab_size=22),
)
LIMITS = Limits(think=7, response=6, speech_seconds=0.64)
WORDS = [
    "system\nuser\nassistant\nThe user feels sad. This is because I lost my keys. You are kind. I am so sorry."
] * 4


class StubCodec:
    """Every unit is 20 ms of its own constant."""

    name, rate, vocab_size, end_id, group_size, sample_rate = "stub", 50, 22, 20, 4, 16000

    def decode(self, ids):
        return np.repeat(np.asarray(ids, np.float32) / 40, 320)

    def identity(self):
        return {"name": "stub", "rate": 50, "vocab_size": 22, "hash": "0"}


@functools.cache
def tokenizer():
    return train_tokenizer(WORDS, 300)


def random_parameter(name, leaf):
    """A decisive model, drawn by numpy: compiling JAX's random numbers takes longer than all of the rest."""
    rng = np.random.default_rng(len(name) * 7919 + leaf.size)
    value = np.ones(leaf.shape) if name.endswith("scale") else rng.normal(size=leaf.shape) / 4
    if name.endswith(("head", "heads")):
        value *= 20
    value = value.astype(leaf.dtype)
    mesh = jax.sharding.get_mesh()
    return jnp.asarray(value) if mesh.empty else jax.device_put(value, jax.NamedSharding(mesh, leaf.sharding.spec))


@functools.cache
def random_model(config, mesh=None):
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        abstract = jax.eval_shape(functools.partial(build_model, config), jax.random.key(0))
        return map_named(random_parameter, abstract)


def model():
    return random_model(CONFIG)


def make_run(*, sizes=CONFIG, speaks=True, thinks=True, **changes):
    made = copy.copy(model())
    if not speaks:
        made.speak = None
    config = get_defaults()
    config.stage = "joint"
    config.model = to_section(sizes)
    config.chat.thinks = thinks
    config.chat.system_text, config.chat.speech_system_text = "You are kind.", "You are a user."
    config.data.shapes.targets = config.data.shapes.tokens = config.data.shapes.speak = 320
    fields = {
        "path": Path("run"), "step": 5, "stage": "joint", "config": typed(config), "model": made,
        "tokenizer": tokenizer(), "codec": StubCodec() if speaks else None, "mesh": None, "metadata": {},
    }  # fmt: skip
    return Run(**(fields | changes))


def mel_codec(codes=20, seed=0):
    """A codec of random numbers, with files."""
    rng = np.random.default_rng(seed)
    shapes = ((codes, FEATURES), ((2 * CONTEXT + 1) * FEATURES, 2 * FEATURES), (2 * FEATURES,), (1,))
    return MelCodec(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def save_run(folder, **options):
    """The folder of a run as training leaves it, with a codec of its own; `options` as of `make_run`."""
    run = make_run(**options)
    codec = mel_codec() if run.codec else None
    save_run_files(folder, run.config, run.tokenizer, codec)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        items = {"trainable": run.model, "optimizer": {"count": np.int32(run.step)}}
        checkpoints.save(run.step, items, {"step": run.step} | ({"codec": codec.identity()} if codec else {}))
    return folder


def make_generator(run=None, **options):
    return Generator.from_run(run or make_run(), **({"limits": LIMITS, "batch_size": 4} | options))


def voice(number, seconds=0.7):
    """A tone with noise."""
    time = np.arange(round(seconds * 16000)) / 16000
    noise = np.random.default_rng(number).normal(size=len(time))
    return (0.3 * np.sin(2 * np.pi * (150 + 60 * number) * time) + 0.05 * noise).astype(np.float32)


def dialogues():
    """Three dialogues of about equal length, so that one compiled program serves them all."""
    said = "The user feels sad. I lost my keys."
    return [
        [UserTurn(voice(0), response=said), UserTurn(voice(1, 0.5))],
        [UserTurn(text=said, response="I am so sorry."), UserTurn(voice(2, 1.0))],
        [UserTurn(voice(3), text=said + " This is because I lost my keys. You are kind.")],
    ]
