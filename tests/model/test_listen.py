"""Listen against transformers and independent torch code, float32, tiny random weights."""

import dataclasses
import functools
import os
import types

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.models.audioflamingo3 import modeling_audioflamingo3 as flamingo
from transformers.models.qwen2_audio import modeling_qwen2_audio as qwen2_audio
from transformers.models.whisper import modeling_whisper as whisper

from ieat_jax.audio.logmel import log_mel
from ieat_jax.model.adapters import adapter_length
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, ModelConfigError
from ieat_jax.model.listen import Listen, fill_silence
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.model.places import Places
from ieat_jax.model.sharding import MESH_AXES, make_mesh, put

WIDTH, HEADS, LAYERS, FRAMES, MELS = 16, 4, 3, 100, 8
ENCODER = EncoderConfig(num_layers=LAYERS, width=WIDTH, num_heads=HEADS, mlp_width=32, num_mels=MELS, max_positions=50)
GOAT = AdapterConfig(
    num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=32, conv_width=24, hidden_width=40
)
SIZES = dict(
    d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=32, num_mel_bins=MELS,
    max_source_positions=50,
)  # fmt: skip
CLIP_FRAMES = np.array([[100, 57], [0, 33]], np.int32)


def configure(kind, layer_mix, **fields):
    listen = ListenConfig(ENCODER, dataclasses.replace(GOAT, kind=kind), layer_mix=layer_mix, clip_seconds=1.0)
    return ModelConfig(listen=listen, llm=LLMConfig(width=24), **fields)


@functools.cache
def abstract(config):
    return jax.eval_shape(functools.partial(Listen, config), jax.random.key(0))


@functools.cache
def random_model(config):
    """Every parameter at random, so that no bias, norm or mix weight stands at its neutral start."""
    rng = np.random.default_rng(0)
    return map_named(lambda _, leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract(config))


def clips(seed=0):
    mel = np.random.default_rng(seed).normal(size=(2, 2, FRAMES, MELS)).astype(np.float32)
    return mel, CLIP_FRAMES


# Without LLVM's optimisation a program compiles in a third of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
listen_jit = jit(lambda model, mel, frames: model(mel, frames))
encode_jit = jit(lambda model, mel, frames: model.encode(mel, frames))
adapt_jit = jit(lambda model, states, frames: model.adapt(states, frames))


def loss(model, mel, frames):
    audio, _ = model(mel, frames)
    return jnp.sum(jnp.sin(audio * jnp.arange(1, audio.shape[-2] + 1)[:, None]))


gradients_jit = jit(jax.value_and_grad(loss, argnums=(0, 1)))


def torch_encoder_name(name):
    """(Hugging Face name, whether it is stacked over layers) of our `encoder.*` parameter."""
    name = name.removeprefix("encoder.")
    for ours, theirs in (
        ("layers.attention_norm.", "layers.{}.self_attn_layer_norm."),
        ("layers.mlp_norm.", "layers.{}.final_layer_norm."),
        ("layers.attention.o.", "layers.{}.self_attn.out_proj."),
        ("layers.attention.", "layers.{}.self_attn."),
        ("layers.mlp.up.", "layers.{}.fc1."),
        ("layers.mlp.down.", "layers.{}.fc2."),
        ("norm.", "layer_norm."),
    ):
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    name = name.replace("self_attn.q.", "self_attn.q_proj.").replace("self_attn.k.", "self_attn.k_proj.")
    name = name.replace("self_attn.v.", "self_attn.v_proj.").replace(".kernel", ".weight").replace(".scale", ".weight")
    return "embed_positions.weight" if name == "positions" else name


def load_encoder(reference, model):
    """Give a torch Whisper-like encoder the weights of our model."""
    state = {}
    for name, value in named_leaves(model).items():
        if not name.startswith("encoder."):
            continue
        theirs, values = torch_encoder_name(name), np.asarray(value)
        for index, x in enumerate(values if "{}" in theirs else [values]):
            if "conv" in name and name.endswith("kernel"):
                x = x.transpose(2, 1, 0)
            elif name.endswith("kernel"):
                x = x.reshape(-1, WIDTH).T if ".o." in name else x.reshape(x.shape[0], -1).T
            elif ".attention." in name:
                x = x.reshape(-1)
            state[theirs.format(index)] = torch.from_numpy(x.copy())
    reference.load_state_dict(state, strict=True)
    return reference.eval()


def filled(mel, frames):
    """Silence after the clip, in numpy: [n, F, M] and [n] -> torch [n, M, F]."""
    mel = mel.copy()
    for clip, count in zip(mel, frames, strict=True):
        clip[count:] = max(clip[:count].max() - 2.0, -1.5) if count else -1.5
    return torch.from_numpy(mel).transpose(1, 2)


def read_of(frames):
    """Frames that are read of each clip: two frames behind it hold sound, too."""
    return np.where(frames > 0, np.minimum(frames + 2, FRAMES), 0)


def whisper_states(config, mel, frames):
    """The states of the stem and of every layer, and the final norm's output, by transformers."""
    reference = whisper.WhisperEncoder(transformers.WhisperConfig(**SIZES, attn_implementation="eager"))
    load_encoder(reference, random_model(config))
    states = []
    reference.layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))
    for layer in reference.layers:
        layer.register_forward_hook(lambda _, args, out: states.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        last = reference(filled(mel.reshape(-1, FRAMES, MELS), read_of(frames).reshape(-1))).last_hidden_state
    return states, last


def close(ours, theirs, atol=1e-5):
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), atol=atol, rtol=1e-5)


def test_the_last_layer_is_whispers_output():
    config = configure("goat", "last")
    mel, frames = clips()
    states = encode_jit(random_model(config), mel, frames)
    close(states.reshape(4, 50, WIDTH), whisper_states(config, mel, frames)[1])


def test_the_mix_weighs_every_layer_standardised():
    config = configure("goat", "learned")
    model = random_model(config)
    mel, frames = clips()
    states, _ = whisper_states(config, mel, frames)
    assert len(states) == LAYERS + 1
    weights = torch.softmax(torch.from_numpy(np.asarray(model.mix.get_value())), 0)
    mixed = sum(w * F.layer_norm(x, (WIDTH,), eps=1e-5) for w, x in zip(weights, states, strict=True))
    close(encode_jit(model, mel, frames).reshape(4, 50, WIDTH), mixed)


def goat_reference(named, states):
    """GOAT-SLM's adapter for one clip [n, W] without any padding, in torch."""
    p = {name: torch.from_numpy(np.asarray(value)) for name, value in named.items()}
    x = states[None].transpose(1, 2)
    for i in (1, 2, 3):
        kernel = p[f"adapter.conv{i}.kernel"].permute(2, 1, 0)
        x = F.glu(F.conv1d(x, kernel, p[f"adapter.conv{i}.bias"], stride=2, padding=2), dim=1)
    x = x[0].T
    angle = torch.arange(len(x))[:, None] / 1e4 ** (torch.arange(4) / 4)  # head_dim 8
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def rms(x, scale):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale

    def turn(x):  # [heads, n, head_dim]
        return x * cos + torch.cat((-x[..., 4:], x[..., :4]), -1) * sin

    for layer in range(2):
        q = {name.removeprefix("adapter.layers."): v[layer] for name, v in p.items() if "adapter.layers." in name}
        y = rms(x, q["attention_norm.scale"])
        query, key, value = (
            torch.einsum("nd,dhk->hnk", y, q[f"attention.{n}.kernel"]) + q[f"attention.{n}.bias"][:, None]
            for n in "qkv"
        )
        key, value = key.repeat_interleave(2, 0), value.repeat_interleave(2, 0)  # 4 heads share 2
        weights = torch.softmax(turn(query) @ turn(key).mT / 8**0.5, -1)
        x = x + torch.einsum("hnk,hkd->nd", weights @ value, q["attention.o.kernel"])
        y = rms(x, q["mlp_norm.scale"])
        x = x + (F.silu(y @ q["mlp.gate.kernel"]) * (y @ q["mlp.up.kernel"])) @ q["mlp.down.kernel"]
    x = rms(x, p["adapter.norm.scale"])
    return F.layer_norm(x, x.shape[-1:], p["norm.scale"], p["norm.bias"], 1e-5)


def test_the_goat_adapter_is_gated_convolutions_and_a_transformer():
    config = configure("goat", "last")
    model = random_model(config)
    states = np.random.default_rng(1).normal(size=(2, 2, 50, WIDTH)).astype(np.float32)
    audio, lengths = adapt_jit(model, states, CLIP_FRAMES)
    assert audio.shape == (2, 2, 7, 24)
    assert lengths.tolist() == [[7, 4], [0, 3]]
    for row, clip in np.ndindex(2, 2):
        n = lengths[row, clip]
        if n:
            own = torch.from_numpy(states[row, clip, : (CLIP_FRAMES[row, clip] + 1) // 2])
            close(audio[row, clip, :n], goat_reference(named_leaves(model), own))
        assert not np.any(audio[row, clip, n:])


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_pooled_adapters_are_their_containers(kind):
    config = configure(kind, "last")
    model = random_model(config)
    mel, frames = clips()
    text = dict(hidden_size=24, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
    if kind == "mlp":
        audio = transformers.AudioFlamingo3EncoderConfig(
            hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=32,
            num_mel_bins=MELS, max_source_positions=50,
        )  # fmt: skip
        whole = transformers.AudioFlamingo3Config(audio_config=audio, text_config=dict(model_type="qwen2", **text))
        tower, projector = flamingo.AudioFlamingo3Encoder(audio), flamingo.AudioFlamingo3MultiModalProjector(whole)
        layers = {"linear1": projector.linear_1, "linear2": projector.linear_2}
    else:
        audio = transformers.Qwen2AudioEncoderConfig(**SIZES)
        whole = transformers.Qwen2AudioConfig(audio_config=audio, text_config=dict(model_type="qwen2", **text))
        tower, projector = qwen2_audio.Qwen2AudioEncoder(audio), qwen2_audio.Qwen2AudioMultiModalProjector(whole)
        layers = {"linear1": projector.linear}
    load_encoder(tower, model)
    for name, layer in layers.items():
        ours = getattr(model.adapter, name)
        layer.weight.data = torch.from_numpy(np.asarray(ours.kernel.get_value()).T.copy())
        layer.bias.data = torch.from_numpy(np.asarray(ours.bias.get_value()))
    features = filled(mel.reshape(-1, FRAMES, MELS), read_of(frames).reshape(-1))
    count = torch.from_numpy(frames.reshape(-1))
    if kind == "mlp":
        mask = dict(input_features_mask=(torch.arange(FRAMES) < count[:, None]).long())
    else:
        seen = torch.arange(50) < ((count + 1) // 2)[:, None]
        mask = dict(attention_mask=torch.where(seen, 0.0, -1e9)[:, None, None].expand(-1, 1, 50, 50))
    with torch.no_grad():
        expected = projector.eval()(tower(features, **mask).last_hidden_state)
    got, lengths = listen_jit(model, mel, frames)
    assert lengths.tolist() == [[25, 14], [0, 8]]
    for clip, n in enumerate(lengths.reshape(-1)):
        close(got.reshape(4, 25, 24)[clip, :n], expected[clip, :n])
        assert not np.any(got.reshape(4, 25, 24)[clip, n:])


def test_a_mix_that_is_pooled_has_its_own_norm():
    model = random_model(configure("linear", "learned"))
    states = np.random.default_rng(1).normal(size=(2, 2, 25, WIDTH)).astype(np.float32)
    audio, lengths = adapt_jit(model, states, CLIP_FRAMES)
    p = {name: torch.from_numpy(np.asarray(value)) for name, value in named_leaves(model).items()}
    x = F.layer_norm(torch.from_numpy(states), (WIDTH,), p["adapter.norm.scale"], p["adapter.norm.bias"], 1e-5)
    x = x @ p["adapter.linear1.kernel"] + p["adapter.linear1.bias"]
    close(audio[0], x[0] * (torch.arange(25) < torch.from_numpy(np.array(lengths[0]))[:, None])[..., None])


def test_what_stands_after_a_clip_changes_nothing():
    model = random_model(configure("goat", "learned"))
    mel, frames = clips()
    outside = np.arange(FRAMES)[:, None] >= read_of(frames)[..., None, None]
    value, (grads, mel_grad) = gradients_jit(model, mel, frames)
    value_nan, (grads_nan, mel_grad_nan) = gradients_jit(model, np.where(outside, np.nan, mel), frames)
    assert value == value_nan
    jax.tree.map(np.testing.assert_array_equal, (grads, mel_grad), (grads_nan, mel_grad_nan))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    assert np.any(mel_grad)
    assert not np.any(np.where(outside, mel_grad, 0))
    no_gradient = {name for name, leaf in named_leaves(grads).items() if np.max(np.abs(leaf)) < 1e-6}
    assert no_gradient == {"encoder.norm.scale", "encoder.norm.bias"}  # a mix does not use the final norm
    for kind, behind in (("mlp", 2), ("stack", 0)):
        unread = np.arange(FRAMES)[:, None] >= np.where(frames > 0, frames + behind, 0)[..., None, None]
        other = random_model(configure(kind, "last"))
        audio, _ = listen_jit(other, np.where(unread, np.nan, mel), frames)
        np.testing.assert_array_equal(audio, listen_jit(other, mel, frames)[0])


def test_a_clip_depends_on_no_other():
    model = random_model(configure("goat", "last"))
    mel, frames = clips()
    audio, _ = listen_jit(model, mel, frames)
    other, _ = clips(seed=5)
    other[0, 1], other_frames = mel[0, 1], np.array([[9, frames[0, 1]], [100, 0]], np.int32)
    np.testing.assert_allclose(listen_jit(model, other, other_frames)[0][0, 1], audio[0, 1], atol=1e-6)
    moved, _ = listen_jit(model, mel[::-1, ::-1], frames[::-1, ::-1])
    np.testing.assert_allclose(moved[::-1, ::-1], audio, atol=1e-6)


def test_a_shorter_window_holds_the_same_clip():
    states = np.random.default_rng(1).normal(size=(1, 2, 50, WIDTH)).astype(np.float32)
    frames = np.array([[57, 33]], np.int32)
    model = random_model(configure("goat", "last"))
    long, lengths = adapt_jit(model, states, frames)
    short, short_lengths = adapt_jit(model, states[:, :, :29], frames)
    assert lengths.tolist() == short_lengths.tolist()
    np.testing.assert_allclose(long[:, :, :4], short, atol=1e-6)
    pooled, mel = random_model(configure("mlp", "last")), clips()[0][:1]
    long, short = (listen_jit(pooled, x, frames)[0] for x in (mel, mel[:, :, :60]))
    np.testing.assert_allclose(long[:, :, :14], short[:, :, :14], atol=1e-6)  # the encoder hears the clip alone


@pytest.mark.parametrize("kind", ["goat", "mlp", "linear", "stack"])
def test_lengths_are_the_shapes_that_come_out(kind):
    config = configure(kind, "learned")
    frames = np.arange(101)
    lengths = adapter_length(config.listen.adapter, frames)
    assert lengths[0] == 0
    assert lengths[1] == (0 if kind in ("mlp", "linear") else 1)
    for window in (1, 2, 3, 4, 5, 31, 32, 33, 99, 100):
        mel = jax.ShapeDtypeStruct((1, 2, window, MELS), np.float32)
        shape = jax.eval_shape(Listen.__call__, abstract(config), mel, np.zeros((1, 2), np.int32))[0].shape
        assert shape == (1, 2, adapter_length(config.listen.adapter, window), 24)
        assert lengths[window] == shape[2]
    assert adapter_length(AdapterConfig(), 3000) == 188
    assert isinstance(adapter_length(AdapterConfig(kind="mlp"), 3000), int)


def test_padding_is_the_log_mel_of_silence():
    waveform = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    for audio, count in ((waveform, 27), (waveform * 1e-4, 27), (waveform * 0, 0)):
        mel = log_mel(audio, num_mels=MELS, window_seconds=0.5)  # the 27th frame is the last that touches the audio
        np.testing.assert_allclose(fill_silence(mel[None], Places(np.array([count])))[0], mel, atol=1e-5)


def test_a_batch_without_clips_is_empty():
    audio, lengths = random_model(configure("goat", "last"))(np.zeros((2, 0, FRAMES, MELS)), np.zeros((2, 0), int))
    assert audio.shape == (2, 0, 7, 24)
    assert lengths.shape == (2, 0)


def dots(jaxpr):
    """Matrix products that a jaxpr runs, those in a loop counted as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == "dot_general"
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            total += times * dots(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_frozen_encoder_runs_once(remat):
    model = random_model(configure("goat", "learned", remat=remat))
    mel, frames = clips()

    def mixed(weights, model):
        model = jax.tree.map(lambda x: x, model)
        model.mix = weights
        return jnp.sum(jnp.sin(model.encode(mel, frames)))

    forward = dots(jax.make_jaxpr(lambda w: mixed(w, model))(model.mix).jaxpr)
    assert forward == 2 + LAYERS * 8  # convolutions; q, k, v, o, scores, values, up, down
    assert dots(jax.make_jaxpr(jax.grad(lambda w: mixed(w, model)))(model.mix).jaxpr) == forward
    trained = dots(jax.make_jaxpr(jax.grad(lambda m: mixed(m.mix, m)))(model).jaxpr)
    assert trained >= 2 * forward


@pytest.mark.parametrize("sizes", [(1, 8, 1, 1), (1, 4, 1, 2), (1, 2, 1, 4), (2, 2, 2, 1)])
def test_the_same_numbers_on_every_mesh(sizes):
    config = configure("goat", "learned")
    config = dataclasses.replace(
        config, listen=dataclasses.replace(config.listen, adapter=dataclasses.replace(GOAT, num_kv_heads=4))
    )
    mel = np.random.default_rng(2).normal(size=(8, 2, FRAMES, MELS)).astype(np.float32)
    frames = np.tile(CLIP_FRAMES, (4, 1))
    expected, expected_lengths = listen_jit(random_model(config), mel, frames)
    with jax.set_mesh(make_mesh(types.SimpleNamespace(**dict(zip(MESH_AXES, sizes, strict=True))))):
        layouts = jax.eval_shape(functools.partial(Listen, config), jax.random.key(0))
        assert layouts.encoder.conv1.kernel.get_value().sharding.spec[-1] == "fsdp"
        mesh = jax.sharding.get_mesh()
        model = jax.tree.map(
            lambda x, to: jax.device_put(x, jax.NamedSharding(mesh, to.sharding.spec)), random_model(config), layouts
        )
        batch = put((mel, frames), "batch", "sequence")
        audio, lengths = jit(lambda model, *batch: model(*batch))(model, *batch)
    np.testing.assert_allclose(audio, expected, atol=1e-5)
    np.testing.assert_array_equal(lengths, expected_lengths)


def test_a_log_mel_that_does_not_fit_is_named():
    model = abstract(configure("goat", "last"))
    for shape, message in (
        ((1, 1, 100, 9), "num_mels is 8.* has 9"),
        ((1, 1, 101, 8), "max_positions.* 100 .*not 101"),
    ):
        with pytest.raises(ModelConfigError, match=message):
            jax.eval_shape(Listen.__call__, model, np.zeros(shape, np.float32), np.ones((1, 1), np.int32))


def test_the_computation_has_the_configured_type():
    config = configure("mlp", "learned", dtype="bfloat16")
    audio, _ = jax.eval_shape(Listen.__call__, abstract(config), *clips())
    assert audio.dtype == jnp.bfloat16
