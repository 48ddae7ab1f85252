import numpy as np
import pytest

from ieat_jax import prepare
from ieat_jax.audio.codec import CodecError, UnitCodec, check_identity
from ieat_jax.audio.files import write_wav
from ieat_jax.audio.logmel import log_mel
from ieat_jax.codecs.load import load_codec
from ieat_jax.codecs.onnx_graph import codebook_size
from ieat_jax.data.records import read_records, write_records

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


def save(path, nodes, constants, out="indices", length_type=None):
    """A model of the signature of CosyVoice's tokenizers."""
    helper, types = onnx.helper, onnx.TensorProto
    feats = helper.make_tensor_value_info("feats", types.FLOAT, [1, 128, "T"])
    length = helper.make_tensor_value_info("feats_length", length_type or types.INT32, [1])
    indices = helper.make_tensor_value_info(out, types.INT64, [1, "n"])
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tokenizer", [feats, length], [indices], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def framed(stride):
    """Nodes and constants: every `stride`-th frame of the log-mel as 'frames' [1, n, 128]."""
    make = onnx.helper.make_node
    nodes = [
        make("Slice", ["feats", "zero", "many", "last", "stride"], ["strided"]),
        make("Transpose", ["strided"], ["frames"], perm=[0, 2, 1]),
    ]
    numbers = {"zero": [0], "many": [2**31], "last": [2], "stride": [stride]}
    return nodes, {name: np.array(value, np.int64) for name, value in numbers.items()}


def nearest_code(path, codes, stride, form):
    """A vector quantiser, its product with the codebook written in one of the ways that exporters write it."""
    make = onnx.helper.make_node
    nodes, constants = framed(stride)
    book = np.random.default_rng(0).normal(size=(codes, 128)).astype(np.float32)
    if form == "matmul":
        nodes.append(make("MatMul", ["frames", "book"], ["near"]))
        constants["book"] = book.T.copy()
    elif form == "transpose":
        nodes += [make("Transpose", ["book"], ["turned"]), make("MatMul", ["frames", "turned"], ["near"])]
        constants["book"] = book
    else:
        nodes += [
            make("Squeeze", ["frames", "zero"], ["flat"]),
            make("Gemm", ["flat", "book"], ["products"], transB=1),
            make("Unsqueeze", ["products", "zero"], ["near"]),
        ]
        constants["book"] = book
    # Behind it lies a product with a matrix of another size, as in the encoder that comes before the codebook.
    nodes[1].output[0] = "bare"
    nodes.insert(2, make("MatMul", ["bare", "layer"], ["frames"]))
    constants["layer"] = np.eye(128, dtype=np.float32)
    nodes.append(make("ArgMax", ["near"], ["indices"], axis=2, keepdims=0))
    return save(path, nodes, constants)


def counted(path, digits, stride, form):
    """A finite scalar quantiser of three levels: the signs of `digits` bins as a number to the base 3."""
    make = onnx.helper.make_node
    nodes, constants = framed(stride)
    constants |= {"bins": np.array([digits], np.int64), "one": np.array(1, np.float32)}
    nodes += [
        make("Slice", ["frames", "zero", "bins", "last"], ["some"]),
        make("Sign", ["some"], ["signs"]),
        make("Add", ["signs", "one"], ["levels"]),
    ]
    powers = 3 ** np.arange(digits)
    if form == "constant":
        constants["powers"] = powers.astype(np.float32)
    elif form == "cast":
        nodes.append(make("Cast", ["whole"], ["powers"], to=onnx.TensorProto.FLOAT))
        constants["whole"] = powers.astype(np.int64)
    else:
        nodes.append(make("Pow", ["three", "places"], ["powers"]))
        constants |= {"three": np.array([3], np.float32), "places": np.arange(digits, dtype=np.float32)}
    nodes += [
        make("Mul", ["levels", "powers"], ["parts"]),
        make("ReduceSum", ["parts", "last"], ["sum"], keepdims=0),
        make("Cast", ["sum"], ["indices"], to=onnx.TensorProto.INT64),
    ]
    return save(path, nodes, constants)


@pytest.mark.parametrize("form", ["matmul", "transpose", "gemm"])
@pytest.mark.parametrize(("stride", "name"), [(2, "cosyvoice-300m"), (4, "cosyvoice-300m-25hz")])
def test_rate_and_codebook_of_a_vector_quantiser_are_measured(form, stride, name, tmp_path):
    path = nearest_code(tmp_path / "a.onnx", 4096, stride, form)
    assert codebook_size(path) == 4096
    identity = load_codec(path).identity()
    assert (identity["name"], identity["rate"], identity["vocab_size"]) == (name, 100 // stride, 4098)


@pytest.mark.parametrize("form", ["constant", "cast", "pow"])
def test_cosyvoice2_is_not_taken_for_cosyvoice(form, tmp_path):
    path = counted(tmp_path / "speech_tokenizer_v1.onnx", 8, 4, form)
    assert codebook_size(path) == 6561
    codec = load_codec(path)
    identity = codec.identity()
    assert (identity["name"], identity["rate"], identity["vocab_size"], codec.end_id) == ("cosyvoice2", 25, 6563, 6561)
    wave = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    assert len(codec.encode(wave)) == 50
    with pytest.raises(CodecError, match=r"rate: 50 there, 25 here; vocab_size: 4098 there, 6563 here"):
        check_identity({"name": "cosyvoice-300m", "rate": 50, "vocab_size": 4098, "hash": "x"}, identity)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: nearest_code(path, 1024, 2, "matmul"), "50 Hz and 1024 codes"),
        (lambda path: nearest_code(path, 4096, 1, "matmul"), "100 Hz and 4096 codes"),
        (lambda path: counted(path, 8, 2, "constant"), "50 Hz and 6561 codes"),
        (lambda path: counted(path, 7, 4, "constant"), "25 Hz and 2187 codes"),
    ],
)
def test_what_is_no_release_is_refused(make, said, tmp_path):
    with pytest.raises(CodecError, match=rf"{said} is none that is known here .*cosyvoice2: 25 Hz, 6561 codes"):
        load_codec(make(tmp_path / "a.onnx"))


def test_without_a_codebook_to_be_found_the_ids_decide(tmp_path):
    """At 50 Hz there is one release; an id above its codes, or another rate, is none."""
    make, types = onnx.helper.make_node, onnx.TensorProto
    for stride, scale, name in ((2, 100.0, "cosyvoice-300m"), (2, 1e4, None), (4, 10.0, None), (2, -100.0, None)):
        nodes, constants = framed(stride)
        nodes += [
            make("ReduceMax", ["frames"], ["top"], axes=[2], keepdims=0),
            make("Mul", ["top", "scale"], ["scaled"]),
            make("Cast", ["scaled"], ["indices"], to=types.INT64),
        ]
        path = save(tmp_path / "a.onnx", nodes, constants | {"scale": np.array(scale, np.float32)})
        assert codebook_size(path) is None
        if name is None:
            with pytest.raises(CodecError, match="a codebook that cannot be found"):
                load_codec(path)
        else:
            assert load_codec(path).identity()["name"] == name


def test_a_graph_that_fails_and_an_id_beyond_the_codes_are_sentences(tmp_path):
    nodes, constants = framed(2)
    path = save(tmp_path / "a.onnx", [*nodes, onnx.helper.make_node("ArgMax", ["frames"], ["x"], axis=2, keepdims=0)],
                constants, out="x", length_type=onnx.TensorProto.INT64)  # fmt: skip
    with pytest.raises(CodecError, match="fails on a log-mel"):
        load_codec(path)
    codec = load_codec(nearest_code(path, 4096, 2, "matmul"))
    codec.end_id = 100
    with pytest.raises(CodecError, match=r"ids of .* but cosyvoice-300m has 100 codes"):
        codec.encode(np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32))


def test_a_reply_that_is_too_long_for_the_tokenizer_is_left_out(tmp_path, capsys):
    path = nearest_code(tmp_path / "a.onnx", 4096, 2, "matmul")
    records = []
    for name, seconds in (("short", 2), ("long", 31)):
        write_wav(tmp_path / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, seconds * 16_000))
        turn = {"turn_id": 1, "text": "a", "response_text": "b", "response_audio": f"{name}.wav"}
        records.append({"dialogue_id": name, "turns": [turn]})
    write_records(tmp_path / "r.jsonl", records)
    command = ["units", "--records", str(tmp_path / "r.jsonl"), "--codec", str(path), "--out", str(tmp_path / "out")]
    assert prepare.main([*command, "--max-bad-share", "0.5"]) == 0
    assert "left out 1 of 2 records (1 x not_encoded)" in capsys.readouterr().out
    (kept,) = read_records(tmp_path / "out" / "r.jsonl")
    assert (kept.dialogue_id, len(kept.turns[0].units), kept.codec["rate"]) == ("short", 100, 50)


def test_the_graph_of_a_damaged_file_is_not_known(tmp_path):
    whole = nearest_code(tmp_path / "a.onnx", 64, 2, "matmul").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole[: rng.integers(len(whole)) if rng.random() < 0.3 else None])
        if damaged:
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        (tmp_path / "b.onnx").write_bytes(damaged)
        assert codebook_size(tmp_path / "b.onnx") in (None, 64) or damaged != whole


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
