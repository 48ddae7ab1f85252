"""Every field of the configuration changes something: the batches, the computation, the update, or the run."""

import dataclasses
import functools
import hashlib
import json

import jax
import numpy as np
import pytest
from helpers.tiny_stages import recipe, write_corpus

from ieat_jax.config.defaults import get_defaults, source
from ieat_jax.config.recipes import fields, set_field, typed
from ieat_jax.config.sections import FeaturesConfig
from ieat_jax.data.batch import Batch
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.open import open_sources
from ieat_jax.model.partition import split
from ieat_jax.model.unified import build_model
from ieat_jax.objectives.losses import total
from ieat_jax.objectives.stages import make_objective
from ieat_jax.packing.pipeline import make_batches, make_plan
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import load_tokenizer
from ieat_jax.training.optimizer import apply_gradients, init_state, make_optimizer, make_schedule
from ieat_jax.training.rows import make_row_spec

# Fields whose effect other tests watch, since it is one on a whole run.
WATCHED = {
    "tokenizer.path": "test_loop: mistakes; joint without it takes that of its checkpoint",
    "tokenizer.rename": "test_tokenizer: renamed",
    "codec": "test_loop: mistakes, joint runs",
    "model.speak.group_size": "test_loop: mistakes",
    "model.speak.unit_vocab_size": "test_loop: mistakes",
    "init.checkpoint": "test_loop: joint starts from align",
    "model.llm.context_length": "test_stock_decoder",
    "init.llm": "test_initialise",
    "init.whisper": "test_initialise",
    "init.speak": "test_goat_slm: a run begins from it",
    "init.allow_new": "test_loop: joint starts from align",
    "init.speak_from_write": "test_initialise",
    "data.sources.train.records": "test_pipeline",
    "data.sources.train.audio_root": "test_initialise",
    "data.sources.train.weight": "test_pipeline: mixture",
    "data.balance": "test_pipeline: balance",
    "data.max_bad_share": "test_pipeline: bad records",
    "data.shapes.frames": "test_loop: clips that share a window",
    "data.check_shards": "test_array_record: flipped bits",
    **{f"data.sources.train.features.{field.name}": "test_tfds" for field in dataclasses.fields(FeaturesConfig)},
    "data.read_workers": "test_readers",
    "data.read_timeout": "test_readers: a reader that hangs",
    "data.read_threads": "test_pipeline: reading on from a step",
    "data.read_ahead": "test_pipeline: reading on from a step",
    "objective.extra": "test_own: a loss of a user's file",
    "optimizer.max_bad_steps": "test_loop: a loss that is not finite",
    "optimizer.rules": "test_optimizer, test_loop: only what the rules train",
    "train.steps": "test_loop",
    "train.accumulate": "test_loop: micro-batches",
    "train.log_every": "test_loop: log",
    "train.compiler_options": "test_compile_check: compiler options",
    "mesh.replica": "test_model_sharding",
    "mesh.fsdp": "test_model_sharding",
    "mesh.context": "test_model_sharding",
    "mesh.tensor": "test_model_sharding",
    "checkpoint.every": "test_loop",
    "checkpoint.keep": "test_checkpoint",
    "checkpoint.initial": "test_loop",
    "checkpoint.allow_changes": "test_resume",
}
# field: (stage in which it counts, another value). Model fields that only one adapter or family has come with what
# switches that on.
CHANGED = {
    "stage": ("align", "write"),
    "seed": ("align", "1"),
    "model.dtype": ("align", "bfloat16"),
    "model.remat": ("align", "full"),
    "model.attention": ("align", "splash"),
    "model.num_emotions": ("align", "7"),
    "model.listen.layer_mix": ("align", "last"),
    "model.listen.clip_seconds": ("align", "0.9"),
    "model.listen.adapter.kind": ("align", "mlp"),
    "model.listen.adapter.stack_layers": ("align", "1"),
    "model.listen.adapter.activation": ("align", "gelu"),
    "model.llm.rope_scaling": ("align", "(4.0, 1.0, 4.0, 16.0)"),
    "model.llm.tie_embeddings": ("align", "false"),
    "model.llm.num_kv_heads": ("align", "2"),
    "model.llm.head_dim": ("align", "4"),
    "model.listen.adapter.num_kv_heads": ("align", "2"),
    "model.listen.adapter.head_dim": ("align", "4"),
    "model.listen.encoder.num_heads": ("align", "2"),
    "model.speak.enabled": ("joint", "false"),
    "model.speak.freeze_layer": ("align", "0"),
    "model.lora.pattern": ("align", r"think\.layers\..*"),
    "chat.thinks": ("align", "false"),
    "chat.system_text": ("align", "Be brief."),
    "chat.speech_system_text": ("joint", "Speak."),
    "data.privileged": ("align", "false"),
    "data.batch_size": ("align", "16"),
    "data.pack": ("align", "2"),
    "data.window": ("align", "3"),
    "data.injection.mode": ("align", "empty"),
    "data.injection.start": ("align", "0.2"),
    "data.injection.floor": ("align", "0.6"),
    "model.listen.padding": ("align", "masked"),
    "data.shapes.speak": ("joint", "400"),
    "data.shapes.groups": ("joint", "64"),
    "data.injection.decay_examples": ("align", "5"),
    "data.injection.partial": ("align", "0.0"),
    "data.injection.jitter": ("align", "3.0"),
    "data.injection.segments": ("align", "('state',)"),
    "objective.chunk": ("align", "64"),
    "objective.internalise": ("joint", "0.25"),
    "objective.internalise_units": ("joint", "0.25"),
    "objective.units": ("joint", "0.5"),
    "objective.consistency": ("joint", "0.5"),
    "optimizer.schedule": ("align", "linear"),
    "optimizer.no_decay": ("align", ".*"),
}

STACK = ("stack_factor", "stack_layers", "hidden_width", "activation", "norm_mid")  # of the adapter of that kind


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def base(corpus, stage):
    config = recipe(corpus, stage)
    with config.unlocked():
        config.optimizer.weight_decay = 0.1
        config.model.num_emotions = 8
        config.data.injection.start, config.data.injection.decay_examples = 0.6, 60
    return config


def batch_of(config):
    sizes = config.model
    chat = ChatFormat.from_config(load_tokenizer(config.tokenizer.path), config.chat)
    speaks = config.stage == "joint" and sizes.speak.enabled
    made = make_row_spec(config, sizes.listen, chat, unit_end=32 if speaks else None)
    quarantine = Quarantine(0.5)
    sources = open_sources(config.data.sources, quarantine)
    plan = make_plan(sources, made, quarantine)
    data = make_batches(sources, made, plan, batch_size=config.data.batch_size, steps=4)
    return [data[step].batch for step in (0, 3)]


@functools.cache
def observed_cached(corpus, stage):
    return observed(base(corpus, stage))


def observed(config):
    """Batches as bytes, the traced computation of the loss, and what the optimiser does with given gradients."""
    config = typed(config)
    batches = batch_of(config)
    digest = hashlib.sha256()
    for batch in batches:
        for name in Batch.__dataclass_fields__:
            digest.update(
                np.ascontiguousarray(getattr(batch, name)).tobytes() + str(getattr(batch, name).shape).encode()
            )
    build = functools.partial(build_model, config.model)
    abstract = jax.eval_shape(build, jax.random.key(0))
    objective, factors = make_objective(config)
    loss = jax.make_jaxpr(lambda model, batch: total(objective(model, batch), factors))(abstract, batches[0])
    names = ["listen.mix", "listen.norm.scale", "listen.adapter.conv1.kernel"]
    optimizer, schedule = make_optimizer(config.optimizer, 40, names)
    parameters = {name: jax.numpy.full(3, 0.5) for name in names}
    state = init_state(optimizer, parameters)
    grads = {name: jax.numpy.array([0.1, -0.2, 1e-7]) for name in names}
    rates = [float(schedule(step)) for step in (0, 1, 15, 39)]
    for factor in (5.0, 0.3):
        scaled = {name: factor * grad for name, grad in grads.items()}
        parameters, state, _ = apply_gradients(optimizer, scaled, state, parameters)
    update = [np.asarray(value).tolist() for value in parameters.values()]
    constants = [np.asarray(constant).tolist() for constant in loss.consts]
    return digest.hexdigest(), str(loss), constants, json.dumps([rates, update]), config.seed


def known_fields():
    config = get_defaults()
    config.data.sources.train = source("")
    return fields(config)


def other_value(config, field):
    value = functools.reduce(lambda section, name: section[name], field.split("."), config)
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int):
        return str(value * 2)
    if isinstance(value, float):
        return str(value * 0.5 if value else 0.5)
    raise AssertionError(f"no other value is known for {field} = {value!r}: add it to CHANGED")


@pytest.mark.parametrize("field", [field for field in known_fields() if field not in WATCHED])
def test_the_field_changes_something(field, corpus):
    stage, text = CHANGED.get(field, ("align", None))
    config = base(corpus, stage)
    with config.unlocked(), config.ignore_type():
        if field in ("model.llm.rope_scaling",):
            config.model.llm.rope_scaling = None
        if field.rpartition(".")[2] in STACK:
            config.model.listen.adapter.kind = "stack"
        if field == "model.speak.enabled":  # losses that need Speak are refused without it
            config.objective.update({"units": 0.0, "consistency": 0.0, "internalise_units": 0.0})
        set_field(config, field, text or other_value(config, field))
    beside = observed_cached(corpus, stage)
    if field.rpartition(".")[2] in STACK:
        plain = base(corpus, stage)
        with plain.unlocked():
            plain.model.listen.adapter.kind = "stack"
        beside = observed(plain)
    assert observed(config) != beside, field


def test_watched_fields_exist():
    assert set(WATCHED) <= set(known_fields())
    assert set(CHANGED) <= set(known_fields())


def test_splitting_by_rules_is_what_the_shipped_rules_ask_for(corpus):
    config = base(corpus, "align")
    abstract = jax.eval_shape(functools.partial(build_model, typed(config).model), jax.random.key(0))
    trainable, frozen = split(abstract, config.optimizer.rules)
    assert all(not name.startswith("listen.encoder") for name in trainable)
    assert "think.embed" in frozen
    assert make_schedule(typed(config).optimizer, 40)(0) > 0
