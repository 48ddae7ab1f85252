"""config.json of models of several parts: what public files leave out, and what cannot be, a sentence each."""

import copy
import json

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from ieat_jax.errors import UserError
from ieat_jax.interop.families.audio_llm import load_listen
from ieat_jax.interop.families.goat_slm import load_speak
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.families.parts import inner_encoder, inner_llm, kind_of

TEXT = {
    "model_type": "qwen3", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
}  # fmt: skip
AUDIO = {
    "model_type": "whisper", "encoder_layers": 2, "d_model": 16, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "num_mel_bins": 80, "max_source_positions": 50, "activation_function": "gelu",
}  # fmt: skip
FLAMINGO = {
    "model_type": "audioflamingo3_encoder", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2,
    "intermediate_size": 32, "num_mel_bins": 80, "max_source_positions": 50,
}  # fmt: skip
GOAT_ADAPTER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
    "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e4, "rope_scaling": None,
    "use_sliding_window": False,
}  # fmt: skip
CONFIGS = {
    "goat_slm": {
        "model_type": "GOAT-SLM2-8B", "whisper_config": AUDIO, "adapter_config": GOAT_ADAPTER,
        "llm_config": TEXT | {"freeze_layer": 0, "unit_vocab_size": 21, "num_tok_per_group": 4},
        "conv_kernel_sizes": "5,5,5",
    },
    "ultravox": {
        "model_type": "ultravox", "audio_config": AUDIO, "text_config": TEXT, "stack_factor": 8, "hidden_size": 24,
        "projector_act": "swiglu", "projector_ln_mid": True, "num_projector_layers": 0, "audio_model_id": None,
        "text_model_id": None, "audio_latency_block_size": None,
    },
    "qwen2_audio": {"model_type": "qwen2_audio", "audio_config": AUDIO, "text_config": TEXT},
    "audioflamingo3": {
        "model_type": "audioflamingo3", "audio_config": FLAMINGO, "text_config": TEXT, "projector_hidden_act": "gelu",
        "projector_bias": True,
    },
}  # fmt: skip
ABSENT = object()
VALUES = (ABSENT, None, "32", 0, -1, 1.5, True, [], {}, float("inf"), 2**70)
# Keys without which nothing can be known; the others have defaults, in transformers or in the public code.
FREE = {("goat_slm", ("model_type",)), *((kind, (key, "model_type")) for kind, key in (
    ("goat_slm", "whisper_config"), ("ultravox", "audio_config"), ("qwen2_audio", "audio_config"),
    ("audioflamingo3", "audio_config"),
))}  # fmt: skip
NEEDED = {"whisper_config", "audio_config", "llm_config", "text_config", "freeze_layer"}


def places():
    for kind, config in CONFIGS.items():
        for key, value in config.items():
            yield kind, (key,)
            yield from ((kind, (key, inner)) for inner in (value if isinstance(value, dict) else ()))


def doors(kind):
    return (load_listen, load_llm, *((load_speak,) if kind == "goat_slm" else ()))


@pytest.fixture
def folder(tmp_path):
    """A function: config -> a folder with it and one tensor."""
    save_file({"one": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")

    def write(config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_is_opened_by_every_door(folder, kind):
    path = str(folder(CONFIGS[kind]))
    listen, llm = load_listen(path).listen, load_llm(path).config
    assert (listen.encoder.width, listen.encoder.max_positions, listen.clip_seconds) == (16, 50, 1.0)
    assert (llm.width, llm.num_layers, llm.qk_norm) == (32, 3, True)
    assert listen.adapter.kind == {
        "goat_slm": "goat", "ultravox": "stack", "qwen2_audio": "linear", "audioflamingo3": "mlp"
    }[kind]  # fmt: skip
    if kind == "goat_slm":
        speak = load_speak(path).goat.speak
        assert (speak.freeze_layer, speak.unit_vocab_size) == (0, 22)
    else:
        with pytest.raises(UserError, match="not a GOAT-SLM"):
            load_speak(path)


def test_a_key_that_is_absent_or_of_a_wrong_kind_is_a_sentence(folder):
    for kind, place in places():
        refused = 0
        for value in VALUES:
            config = copy.deepcopy(CONFIGS[kind])
            inner = config if len(place) == 1 else config[place[0]]
            if value is ABSENT:
                del inner[place[-1]]
            else:
                inner[place[-1]] = value
            path = folder(config)
            said = [refusal(door, str(path)) for door in doors(kind)]
            for sentence in filter(None, said):
                assert str(path) in sentence, (kind, place, value)
            if value is ABSENT and place[-1] in NEEDED:
                assert any(sentence and place[-1] in sentence for sentence in said), (kind, place, said)
            refused += any(said)
        assert refused >= (0 if (kind, place) in FREE else 5), (kind, place)


def refusal(door, path):
    """The sentence in which a folder is refused, None if it is not; any other error is the test's."""
    try:
        door(path)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("goat_slm", {"conv_kernel_sizes": "3,3"}, r"conv_kernel_sizes '3,3' is not supported, only '5,5,5'"),
        ("goat_slm", {"adapter_config": GOAT_ADAPTER | {"hidden_size": 64}}, "hidden_size 64 is not the LLM's 32"),
        ("goat_slm", {"adapter_config": GOAT_ADAPTER | {"rms_norm_eps": 1e-5}}, r"adapter_config: rms_norm_eps 1e-05"),
        ("goat_slm", {"llm_config": TEXT | {"freeze_layer": 2}}, "freeze_layer 2 leaves no layer of 3 for Write"),
        ("goat_slm", {"llm_config": {"model_type": "telechat3"}}, "model_type 'telechat3' is not supported"),
        ("goat_slm", {"llm_config": ABSENT}, "no llm_config in it"),
        ("ultravox", {"text_model_id": "meta-llama/X"}, "text_model_id points to weights elsewhere"),
        ("qwen2_audio", {"audio_config": [1]}, r"audio_config is \[1\], it must be an object"),
    ],
)
def test_what_is_said(folder, kind, changes, said):
    config = {key: value for key, value in (CONFIGS[kind] | changes).items() if value is not ABSENT}
    with pytest.raises(UserError, match=said):
        load_listen(str(folder(config)))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "olmo2"])
def test_an_llm_of_which_nothing_is_said_is_transformers_default(family):
    found, _, note = inner_llm({"text_config": {"model_type": family}}, "ultravox", where="config.json")
    theirs = transformers.AutoConfig.for_model(family)
    assert {key: getattr(theirs, key) for key in found} == found
    assert "config.json: text_config leaves to transformers' defaults: hidden_size = 4096" in note


def test_an_encoder_of_which_nothing_is_said_is_transformers_default():
    classes = {
        "ultravox": transformers.WhisperConfig,
        "goat_slm": transformers.WhisperConfig,
        "qwen2_audio": transformers.Qwen2AudioEncoderConfig,
        "audioflamingo3": transformers.AudioFlamingo3EncoderConfig,
    }
    for kind, each in classes.items():
        key = "whisper_config" if kind == "goat_slm" else "audio_config"
        found, _, _ = inner_encoder({key: {}}, kind, where="config.json")
        assert {name: getattr(each(), name) for name in found} == found
        assert found


def test_the_public_qwen2_audio_is_understood(folder):
    """Qwen2-Audio-7B-Instruct says of its LLM what differs from Qwen2's defaults."""
    text = {
        "model_type": "qwen2", "intermediate_size": 11008, "vocab_size": 156032, "rms_norm_eps": 1e-5,
        "rope_theta": 10000, "max_position_embeddings": 8192, "sliding_window": 32768, "use_mrope": False,
    }  # fmt: skip
    path = folder({"model_type": "qwen2_audio", "audio_config": {"num_mel_bins": 128}, "text_config": text})
    llm, listen = load_llm(str(path)), load_listen(str(path))
    assert (llm.config.width, llm.config.num_layers, llm.config.num_kv_heads, llm.config.qkv_bias) == (
        4096,
        32,
        32,
        True,
    )
    assert (listen.config.width, listen.config.num_layers, listen.config.num_mels) == (1280, 32, 128)
    with pytest.raises(UserError, match="leaves to transformers' defaults: encoder_layers = 32"):
        listen.shapes(listen.listen)


def test_other_models_are_no_such(folder):
    assert kind_of({"model_type": []}) is None
    assert kind_of({"model_type": "whisper"}) is None
    assert kind_of({"model_type": "goat"}) == kind_of({"llm_config": {}}) == "goat_slm"
    for door in (load_listen, load_llm, load_speak):
        with pytest.raises(UserError, match=r"config\.json"):
            door(str(folder({"model_type": {}})))
