import numpy as np
import pytest

from ieat_jax.audio.codec import CodecError, UnitCodec
from ieat_jax.audio.logmel import log_mel
from ieat_jax.codecs.load import load_codec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def tokenizer_file(path, inputs=2):
    """A graph with the signature of `speech_tokenizer_v1.onnx`: feats [1,128,T], feats_length [1] -> indices [1,n].

    It takes every second frame and returns floor(10 * |first mel bin|), so that a test knows what to expect.
    """
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Slice", ["feats", "zero", "one", "one"], ["bin"]),
        helper.make_node("Slice", ["bin", "zero", "length", "two", "two"], ["frames"]),
        helper.make_node("Abs", ["frames"], ["size"]),
        helper.make_node("Mul", ["size", "ten"], ["tenfold"]),
        helper.make_node("Cast", ["tenfold"], ["whole"], to=types.INT64),
        helper.make_node("Squeeze", ["whole", "one"], ["indices"]),
        helper.make_node("Cast", ["feats_length"], ["length"], to=types.INT64),
    ]
    nodes = [nodes[-1], *nodes[:-1]]
    nodes[1] = helper.make_node("Slice", ["feats", "zero", "one", "one"], ["bin"])
    constants = [
        onnx.numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("zero", 0), ("one", 1), ("two", 2))
    ] + [onnx.numpy_helper.from_array(np.array(10, np.float32), "ten")]
    feats = helper.make_tensor_value_info("feats", types.FLOAT, [1, 128, "T"])
    length = helper.make_tensor_value_info("feats_length", types.INT32, [1])
    out = helper.make_tensor_value_info("indices", types.INT64, [1, "n"])
    if inputs == 1:
        nodes = [helper.make_node("ArgMax", ["feats"], ["indices"], axis=1, keepdims=0)]
    graph = helper.make_graph(nodes, "tokenizer", [feats, length][:inputs], [out], constants if inputs == 2 else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_encodes_at_50_hz_from_the_128_bin_log_mel(tmp_path):
    codec = load_codec(tokenizer_file(tmp_path / "speech_tokenizer_v1.onnx"))
    assert isinstance(codec, UnitCodec)
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    ids = codec.encode(wave)
    assert ids.dtype == np.int32
    assert len(ids) == 50
    np.testing.assert_array_equal(ids, (10 * np.abs(log_mel(wave, num_mels=128)[::2, 0])).astype(int))
    assert (codec.rate, codec.vocab_size, codec.end_id, codec.group_size) == (50, 4098, 4096, 4)


def test_identity_follows_the_file(tmp_path):
    path = tokenizer_file(tmp_path / "a.onnx")
    identity = load_codec(path).identity()
    assert (identity["name"], identity["rate"], identity["vocab_size"]) == ("cosyvoice-300m", 50, 4098)
    assert load_codec(path).identity() == identity


def test_what_it_can_not_do_is_said(tmp_path):
    codec = load_codec(tokenizer_file(tmp_path / "a.onnx"))
    with pytest.raises(CodecError, match=r"flow and HiFT vocoder.*not include"):
        codec.decode(np.zeros(4, np.int32))
    with pytest.raises(CodecError, match=r"31\.0 s of speech"):
        codec.encode(np.zeros(31 * 16_000, np.float32))


def test_wrong_files(tmp_path):
    with pytest.raises(CodecError, match="no such file"):
        load_codec(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(CodecError, match="cannot load"):
        load_codec(tmp_path / "bad.onnx")
    with pytest.raises(CodecError, match=r"not a CosyVoice tokenizer.*feats"):
        load_codec(tokenizer_file(tmp_path / "one.onnx", inputs=1))
