"""Weights that cannot be used, of every kind of folder: one sentence that names the folder, and nothing is written.

Folders are written with our own names and sizes, which other tests compare with transformers.
"""

import dataclasses
import functools
import json
import pickle
import re
import shutil

import numpy as np
import pytest
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus
from safetensors.numpy import load_file, save_file

from ieat_jax.config.recipes import to_section
from ieat_jax.errors import UserError
from ieat_jax.interop.containers.write import write_json, write_tensors
from ieat_jax.interop.families import audio_configs, audio_llm, llm, whisper
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.config import (
    AdapterConfig,
    EncoderConfig,
    ListenConfig,
    LLMConfig,
    LoraConfig,
    ModelConfig,
    SpeakConfig,
)
from ieat_jax.model.names import named_leaves

ENCODER = EncoderConfig(num_layers=2, width=16, num_heads=4, mlp_width=32, num_mels=8, max_positions=50)
LLM = LLMConfig(vocab_size=320, width=16, mlp_width=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8)
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "tie_embeddings": False},
    "olmo2": {"qk_norm": True, "post_norm": True},
}
ADAPTERS = {
    "ultravox": AdapterConfig(kind="stack", hidden_width=24),
    "qwen2_audio": AdapterConfig(kind="linear"),
    "audio_flamingo3": AdapterConfig(kind="mlp"),
}
KINDS = (*FAMILIES, "whisper", *ADAPTERS)
CONTAINERS = {name: getattr(audio_configs, f"{name}_config") for name in ADAPTERS}


@functools.cache
def arrays(config):
    rng = np.random.default_rng(0)
    leaves = named_leaves(abstract_model(config, None))
    return {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in leaves.items()}


def sizes_of(kind):
    listen = ListenConfig(ENCODER, ADAPTERS.get(kind, AdapterConfig()), layer_mix="last", clip_seconds=1.0)
    sizes = dataclasses.replace(LLM, **FAMILIES.get(kind, {}))
    return ModelConfig(listen=listen, llm=sizes, speak=SpeakConfig(enabled=False, freeze_layer=0))


def write(kind, folder):
    """A whole folder of weights in a few shards."""
    config = sizes_of(kind)
    named, text = arrays(config), llm.huggingface_config(config.llm, max_positions=256)
    if kind == "whisper":
        tensors, told = whisper.to_huggingface(named, ENCODER), whisper.huggingface_config(ENCODER)
    elif kind in ADAPTERS:
        tensors = audio_llm.to_container(named, config)
        told = CONTAINERS[kind](config, audio=whisper.huggingface_config(ENCODER), text=text, audio_token=3)
    else:
        tensors, told = llm.to_huggingface(named, config), text
        told |= {"model_type": kind} | ({"sliding_window": None} if kind == "mistral" else {})
    tensors = dict(tensors)
    size = sum(array.nbytes for array in tensors.values())
    assert write_tensors(folder, tensors.items(), "float32", shard_bytes=size // 2)
    write_json(folder / "config.json", told)
    assert len(shards(folder)) > 1


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function: kind -> its folder."""

    @functools.cache
    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        write(kind, folder)
        return folder

    return make


@pytest.fixture
def copy(whole, tmp_path):
    return lambda kind: shutil.copytree(whole(kind), tmp_path / "weights")


def opened(kind, folder):
    """[(what a run opens of the folder, what its pieces and shapes are asked with)]."""
    found = []
    if kind not in FAMILIES:
        listen = audio_llm.load_listen(str(folder))
        found.append((listen, () if kind == "whisper" else (listen.listen,)))
    if kind != "whisper":
        text = llm.load_llm(str(folder))
        found.append((text, (dataclasses.replace(sizes_of(kind), llm=text.config),)))
    return found


def read(kind, folder):
    """All that a run reads of the folder, as the run reads it."""
    return [piece for part, asked in opened(kind, folder) for piece in part.pieces(*asked)]


def change(folder, which, edit):
    """Write a shard again: the first or the last, its arrays as `edit` leaves them."""
    file = shards(folder)[which]
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return file


def cut(folder):
    file = shards(folder)[-1]
    file.write_bytes(file.read_bytes()[:-5])
    return f"{file.name}: cut off"


def missing(folder):
    shards(folder)[0].unlink()
    return r"1 of \d shards are missing: model-00001"


def not_finite(value):
    def damage(folder):
        def edit(tensors):
            tensors[max(tensors)].reshape(-1)[-1] = value

        file = change(folder, -1, edit)
        return rf"{file.name}: \S+: 1 of \d+ numbers are NaN or infinite"

    return damage


def tensor_lost(folder):
    change(folder, 0, lambda tensors: tensors.pop(min(tensors)))
    return "the index promises tensors that their shards lack"


def tensor_unnamed(folder):
    change(folder, 0, lambda tensors: tensors.update({"model.extra.weight": np.ones(2, np.float32)}))
    return r"shards hold tensors that the index does not name: model\.extra\.weight"


def shaped(folder):
    def edit(tensors):
        name = max(tensors, key=lambda each: tensors[each].ndim)
        tensors[name] = np.ascontiguousarray(tensors[name][:-1])

    change(folder, 0, edit)
    return "0 missing, 1 of a wrong shape, 0 unexpected"


def flipped(folder):
    file = shards(folder)[0]
    content = bytearray(file.read_bytes())
    content[content.index(b'"shape"') + 1] ^= 1
    file.write_bytes(content)
    return f"{file.name}: not a safetensors file, or a damaged header"


class Trap:
    """What is done to who loads a pickle of it."""

    def __reduce__(self):
        return exec, ("raise SystemError('a pickle was loaded')",)


def pickled(folder):
    for file in (*shards(folder), folder / "model.safetensors.index.json"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    return r"PyTorch \.bin files, which are not read"


def disguised(folder):
    shards(folder)[0].write_bytes(pickle.dumps(Trap()))
    return "model-00001-of-.*(not a safetensors file|cut off)"


def other_family(folder):
    told = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", told | {"model_type": "gpt_neox"})
    return "'gpt_neox'"


DAMAGES = {
    "cut": cut,
    "a shard missing": missing,
    "NaN": not_finite(np.nan),
    "infinite": not_finite(-np.inf),
    "a tensor lost": tensor_lost,
    "a tensor too much": tensor_unnamed,
    "a tensor of another shape": shaped,
    "a bit flipped": flipped,
    "pickles alone": pickled,
    "a pickle in place of a shard": disguised,
    "another family": other_family,
}


def refused(use, folder):
    with pytest.raises(UserError) as told:
        use()
    assert str(folder) in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_read(whole, kind):
    wanted = arrays(sizes_of(kind))
    for name, at, array in read(kind, whole(kind)):
        here = tuple(slice(start, start + size) for start, size in zip(at, array.shape, strict=True))
        np.testing.assert_array_equal(array, wanted[name][here], err_msg=name)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_folder_is_one_sentence(copy, kind, damage):
    folder = copy(kind)
    words = DAMAGES[damage](folder)
    assert re.search(words, refused(lambda: read(kind, folder), folder))


def keys_of(config, before=()):
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*before, key))


ABSENT = object()
WRONG = (ABSENT, None, "x", -1, 0, 2.5, [1], {}, True, float("nan"), 10**30)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_config_json_may_be_missing_or_malformed(copy, kind):
    """It is a sentence, or what the key was to say is known without it: never a traceback."""
    folder = copy(kind)
    told = json.loads((folder / "config.json").read_text())
    refusals, said = {}, set()
    for path in keys_of(told):
        for value in WRONG:
            changed = json.loads(json.dumps(told))
            section = functools.reduce(lambda inner, key: inner[key], path[:-1], changed)
            if value is ABSENT:
                del section[path[-1]]
            else:
                section[path[-1]] = value
            (folder / "config.json").write_text(json.dumps(changed))
            try:
                for part, asked in opened(kind, folder):
                    part.shapes(*asked)
            except UserError as error:
                said.add(str(error))
                refusals.setdefault(path[-1], []).append(value)
    assert all(str(folder) in each for each in said)
    needed = {"whisper": ("d_model", "encoder_layers")}.get(kind, ("hidden_size", "num_hidden_layers", "vocab_size"))
    for key in needed:
        assert len(refusals[key]) >= len(WRONG), (key, refusals[key])


SIZES = {
    "whisper": ("d_model", "encoder_layers", "encoder_ffn_dim", "num_mel_bins", "max_source_positions"),
    **dict.fromkeys(
        FAMILIES, ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads")
    ),
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in SIZES for key in SIZES[kind]])
def test_a_config_that_contradicts_the_tensors_lists_them(copy, kind, key):
    folder = copy(kind)
    told = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", told | {key: told[key] * 2})
    said = refused(lambda: read(kind, folder), folder)
    assert re.search(r"(\d+) missing, (\d+) of a wrong shape, (\d+) unexpected\n  (missing|wrong shape): ", said)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, records=3)
    use_mesh(1, 1, 1, 1)
    yield folder
    use_mesh()


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("qwen3", "cut"),
        ("qwen3", "NaN"),
        ("whisper", "NaN"),
        ("ultravox", "a shard missing"),
        ("olmo2", "a pickle in place of a shard"),
    ],
)
def test_a_run_that_cannot_begin_from_it_leaves_no_folder(corpus, copy, kind, damage, tmp_path):
    folder = copy(kind)
    field = "init__llm" if kind in FAMILIES else "init__whisper"
    config = recipe(corpus, "align", **{field: str(folder), "init__allow_new": (".*",)})
    config.model = to_section(dataclasses.replace(sizes_of(kind), lora=LoraConfig(rank=2)))
    words = DAMAGES[damage](folder)
    assert re.search(words, refused(lambda: start(config, tmp_path / "run"), folder))
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()] if (tmp_path / "run").exists() else []
    assert not left
