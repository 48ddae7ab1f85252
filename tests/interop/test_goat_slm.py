"""A run in GOAT-SLM's layout: the same text and units in modules of transformers, and the way back."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from helpers import tiny_run
from helpers.goat_reference import Goat
from safetensors.numpy import load_file, save_file

import ieat_jax.interop.open as open_module
import ieat_jax.training.initialise as initialise_module
from ieat_jax.audio.logmel import clip_frames
from ieat_jax.config.sections import MeshConfig
from ieat_jax.export import main
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.interop.containers import source
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.export import export, formats_of
from ieat_jax.interop.families.audio_llm import load_listen
from ieat_jax.interop.families.goat_slm import load_speak
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.model.config import EncoderConfig, ModelConfig
from ieat_jax.model.landing import land
from ieat_jax.model.names import named_leaves
from ieat_jax.model.sharding import make_mesh
from ieat_jax.model.sight import Sight
from ieat_jax.training.initialise import InitError, initialise

ENCODER = EncoderConfig(num_layers=2, width=16, num_heads=2, mlp_width=32, num_mels=80, max_positions=50)
LLMS = {
    "qwen3": {"qk_norm": True, "num_layers": 3},
    "qwen2": {"qkv_bias": True, "num_layers": 4, "tie_embeddings": True},
}
FREEZE = {"qwen3": 0, "qwen2": 1}
SAID = "I am so sorry."


def configure(name="qwen3", *, speak=(), llm=(), **listen):
    base = tiny_run.CONFIG
    heard = dataclasses.replace(base.listen, **({"encoder": ENCODER, "layer_mix": "last"} | listen))
    return ModelConfig(
        listen=heard,
        llm=dataclasses.replace(base.llm, **(LLMS[name] | dict(llm))),
        speak=dataclasses.replace(base.speak, freeze_layer=FREEZE[name], **dict(speak)),
    )


def run_of(config, **options):
    return tiny_run.make_run(sizes=config, model=tiny_run.random_model(config), **options)


@functools.cache
def exported_run(name):
    return run_of(configure(name), thinks=name == "qwen3", codec=tiny_run.mel_codec())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: name -> (run, folder of its export)."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name) / "out"
        export(exported_run(name), folder, to="goat_slm")
        return exported_run(name), folder

    return make


@functools.cache
def reference(folder):
    model = Goat(json.loads((folder / "config.json").read_text())).eval()
    state = {name: torch.from_numpy(array) for name, array in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(state, strict=True)
    return model


def dialogues():
    """Dialogues of one and two spoken turns, with clips of lengths at which frames are counted differently."""
    a, b, c, d = (tiny_run.voice(n, size / 16000) for n, size in enumerate((4000, 15_999, 16_000, 9721)))
    return [
        [UserTurn(a, response=SAID), UserTurn(b)],
        [UserTurn(text="The user feels sad.", response=SAID), UserTurn(c)],
        [UserTurn(d, text="The user feels sad. I lost my keys. This is because I lost my keys. You are kind.")],
    ]


def heard_by(model, folder, turns):
    """Positions of every clip, as the official code makes them of its extractor's features."""
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder / "whisper-small")
    found = []
    for turn in turns:
        if turn.audio is not None:
            made = extractor(turn.audio, sampling_rate=16000, return_attention_mask=True, return_tensors="pt")
            found.append(model.hear(made.input_features, made.attention_mask))
    return found


def parts_of(generator, turns, think):
    """(ids of the dialogue, where audio stands among them, ids of Speak's system prompt, the current turn's first)."""
    host = generator.prompts.build(turns, think=think, speech=True)
    dialogue = host.segment_ids == 1
    system = host.tokens[host.segment_ids == 2]
    count = int((~dialogue).sum())
    assert host.speech_prefix[: len(system)].tolist() == np.flatnonzero(~dialogue).tolist()
    ids, places = host.tokens[dialogue], host.audio_index[dialogue] >= 0
    return torch.from_numpy(ids), torch.from_numpy(places), torch.from_numpy(system), host.speech_prefix[count] - count


@pytest.mark.parametrize(("name", "think"), [("qwen3", True), ("qwen3", False), ("qwen2", False)])
@torch.no_grad()
def test_transformers_modules_write_and_speak_the_same(exported, name, think):
    run, folder = exported(name)
    generator = tiny_run.make_generator(run)
    model, end = reference(folder), run.codec.end_id
    never = json.loads((folder / "generation_config.json").read_text())["suppress_tokens"]
    replies = generator.reply(dialogues(), think=think, speech="units")
    assert len({reply.tokens for reply in replies}) > 1
    assert len({reply.units.tobytes() for reply in replies}) > 1
    for turns, reply in zip(dialogues(), replies, strict=True):
        ids, places, system, current = parts_of(generator, turns, think)
        whole = torch.cat([ids, torch.tensor(reply.tokens)])
        x = model.embed(whole, heard_by(model, folder, turns), torch.cat([places, torch.zeros(len(reply.tokens)) > 0]))
        logits = model.text_logits(x)[len(ids) - 1 : -1]
        logits[:, never] = -torch.inf
        most = min(len(reply.tokens), generator.limits.think if think else generator.limits.response)
        assert logits.argmax(-1).tolist()[:most] == list(reply.tokens[:most])
        # Speak reads its own system prompt, the current turn, and what was thought.
        start = 0
        if think:  # the thinking ends with its closing tokens
            close = run.tokenizer.token_id("</think>")
            start = (
                reply.tokens.index(close) + len(generator.chat.think_close) - generator.chat.think_close.index(close)
            )
        states = model.think(x)[0]
        first = len(ids) + start + (0 if think else 1)  # after thinking the token before the response speaks
        prefix = torch.cat([model.think(model.embed(system))[0], states[current:first]])
        fed = states[first : len(whole) - (1 if reply.response_ended else 0)]
        expected = model.speak(prefix, fed, end=end, most=generator.unit_rules.max_groups)
        assert reply.units.tolist() == expected


@pytest.mark.parametrize("name", LLMS)
@torch.no_grad()
def test_logits_of_text_and_units(exported, name):
    run, folder = exported(name)
    generator, turns, model = tiny_run.make_generator(run), dialogues()[0], reference(folder)
    host = generator.prompts.build(turns, think=False, speech=True)
    prompt = generator.stack([host], [0], 1)
    size, prefix = len(host.tokens), host.speech_prefix
    units = np.random.default_rng(0).integers(0, run.codec.end_id, (1, len(prefix), 4)).astype(np.int32)
    units[:, :-5] = -1

    def compute(made):
        sight = Sight(prompt.positions, prompt.segment_ids)
        states = made.think(prompt.tokens, sight, prompt.heard[:, None], prompt.audio_index)
        fed = made.speak.feed(states, prefix[None], units)
        spoken = made.speak(fed, Sight.plain(np.ones((1, len(prefix)), bool)))
        return made.text_logits(made.write(states, sight)), made.speak.unit_logits(spoken)

    text, spoken = (np.asarray(each)[0] for each in jax.jit(compute)(run.model))
    ids, places, system, current = parts_of(generator, turns, False)
    x = model.embed(ids, heard_by(model, folder, turns), places)
    close(text[:size][host.segment_ids == 1], model.text_logits(x))
    added = model.llm_model.emb_unit(torch.from_numpy(np.maximum(units[0], 0))).sum(1)
    fed = torch.cat([model.think(model.embed(system))[0], model.think(x)[0, current:]])
    close(spoken, model.unit_logits((fed + added * torch.from_numpy(units[0, :, :1] >= 0))[None]))


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * np.abs(theirs.numpy()).max(), rtol=0)


def test_clips_are_as_long_as_the_official_code_counts_them():
    samples = np.arange(1, 480_001)
    frames = clip_frames(samples, window_seconds=30.0, behind=configure().listen.behind)
    np.testing.assert_array_equal(frames, -(-samples // 160))


def loaded(folder, config):
    """Everything in a folder, by our names."""
    listen, llm, speak = load_listen(str(folder)), load_llm(str(folder)), load_speak(str(folder))
    own = (item for item in llm.weights(config) if not item[0].startswith("speak."))
    return dict(listen.weights(config.listen)) | dict(own) | dict(speak.weights(config))


@pytest.mark.parametrize("name", LLMS)
def test_the_way_back_is_bit_equal(exported, name):
    run, folder = exported(name)
    config = run.config.model
    goat = load_speak(str(folder)).goat
    assert dataclasses.replace(goat.listen, padding="auto") == config.listen
    assert (goat.llm, goat.speak) == (dataclasses.replace(config.llm, context_length=320), config.speak)
    before, after = named_leaves(run.model), loaded(folder, config)
    assert after.keys() == {each for each in before if not each.startswith("emotion.")}
    for each, array in after.items():
        assert np.array_equal(array, before[each]), each


def test_a_run_begins_from_it_and_is_the_same_export_again(exported, tmp_path):
    run, folder = exported("qwen3")
    given = {"whisper": str(folder), "llm": str(folder), "speak": str(folder), "allow_new": (r"emotion\..*",)}
    config = dataclasses.replace(run.config, init=dataclasses.replace(run.config.init, **given))
    model, handover = initialise(config, None)
    assert not handover.copied
    assert set(handover.new) == {each for each in named_leaves(model) if each.startswith("emotion.")}
    export(dataclasses.replace(run, model=model), tmp_path / "again", to="goat_slm")
    file = "model.safetensors"
    assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    silent = dataclasses.replace(config.model, speak=dataclasses.replace(config.model.speak, enabled=False))
    with pytest.raises(InitError, match=r"config\.init\.speak = .*the model has no Speak"):
        initialise(dataclasses.replace(config, model=silent), None)


def test_its_pieces_land_on_a_mesh(exported, monkeypatch):
    """Listen, LLM and Speak, a layer or a block of rows at a time, with a mesh in use."""
    run, folder = exported("qwen2")
    init = {"whisper": str(folder), "llm": str(folder), "speak": str(folder), "allow_new": (r"emotion\..*",)}
    config = dataclasses.replace(run.config, init=dataclasses.replace(run.config.init, **init))
    monkeypatch.setattr(initialise_module, "land", functools.partial(land, at_once=1))
    monkeypatch.setattr(source, "BLOCK", 100)  # numbers: three rows of the LLM's table
    mesh = make_mesh(MeshConfig(replica=1, fsdp=2, context=1, tensor=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        model, _ = initialise(config, mesh)
    before = named_leaves(run.model)
    for name, array in named_leaves(model).items():
        assert array.sharding.mesh == mesh, name
        if not name.startswith("emotion."):
            np.testing.assert_array_equal(np.asarray(array), before[name], err_msg=name)


def test_the_command_writes_a_shorter_window(tmp_path, monkeypatch):
    """A run that hears one second of an encoder for two: that code fills the window that it finds."""
    encoder = dataclasses.replace(ENCODER, max_positions=100)
    config = configure(encoder=encoder)
    run = run_of(config, codec=tiny_run.mel_codec())
    monkeypatch.setattr(open_module, "open_run", lambda path, step=None: run)
    assert main(["--checkpoint", "run", "--to", "goat_slm", "--out", str(tmp_path / "out")]) == 0
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(tmp_path / "out" / "whisper-small")
    listen = load_listen(str(tmp_path / "out")).listen
    assert listen.clip_seconds == extractor.chunk_length == 1
    assert listen.encoder.max_positions * 2 == extractor.nb_max_frames == 100
    reference(tmp_path / "out")
    assert (tmp_path / "out" / "codec" / "codec.json").is_file()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"adapter": dataclasses.replace(tiny_run.CONFIG.listen.adapter, kind="stack")}, "its adapter is 'stack'"),
        (
            {"adapter": dataclasses.replace(tiny_run.CONFIG.listen.adapter, conv_width=24)},
            r"convolutions have 24 channels.*the encoder, 16 \(listen\.adapter\.conv_width\)",
        ),
        ({"layer_mix": "learned"}, r"a mix of layers, GOAT-SLM its encoder's last alone \(listen\.layer_mix\)"),
        ({"padding": "masked"}, r"masks the padding, GOAT-SLM's hears it \(listen\.padding\)"),
        ({"clip_seconds": 0.5}, r"window of 0\.5 s is no whole number of seconds"),
        ({"llm": {"qk_norm": False}}, "its LLM is a Llama, GOAT-SLM's code has qwen2 and qwen3"),
        ({"llm": {"post_norm": True}}, "its LLM is an OLMo 2, GOAT-SLM's code has qwen2 and qwen3"),
        ({"speak": {"enabled": False}}, r"it does not speak, and GOAT-SLM does \(speak\.enabled\)"),
    ],
)
def test_what_the_layout_cannot_hold_is_said_with_what_can(tmp_path, change, reason):
    run = tiny_run.make_run(sizes=configure(**change))
    with pytest.raises(InteropError) as caught:
        export(run, tmp_path / "out", to="goat_slm")
    assert re.search(
        f"cannot be written as goat_slm: .*{reason}.*; it can be written as huggingface", str(caught.value)
    )
    assert not list(tmp_path.iterdir())
    assert formats_of(exported_run("qwen3"))["goat_slm"] is None


def test_everything_that_is_wrong_with_the_tensors_is_told_at_once(exported, tmp_path):
    run, folder = exported("qwen3")
    config, tensors = run.config.model, load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    head, unit = "llm_model.head_unit.2.weight", "llm_model.emb_unit.weight"
    wrong = {name: array for name, array in tensors.items() if name != "speech_ln.bias"}
    save_file(wrong | {head: tensors[head][:-1].copy(), "adapter.extra": tensors[unit]}, tmp_path / "model.safetensors")
    for use in (
        lambda: load_listen(str(tmp_path)).weights(config.listen),
        lambda: load_speak(str(tmp_path)).shapes(config),
    ):
        with pytest.raises(InteropError) as caught:
            use()
        assert "1 missing, 1 of a wrong shape, 1 unexpected" in str(caught.value)
        for word in ("missing: speech_ln.bias", f"{head} is (21, 32), must be (22, 32)", "unexpected: adapter.extra"):
            assert word in str(caught.value)
    tensors[unit][0, 0], tensors[head][1, 1] = np.nan, np.inf
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InteropError) as caught:
        dict(load_speak(str(tmp_path)).weights(config))
    for word in ("2 tensors are not finite", f"{unit}: 1 of 704 numbers", f"{head}: 1 of 704 numbers"):
        assert word in str(caught.value)
    load_llm(str(tmp_path))  # whose tensors are whole


def test_what_nobody_reads_need_not_be_there(exported, tmp_path):
    run, folder = exported("qwen2")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    unread = r"llm_model\.speech_generator\.(model\.embed_tokens|model\.layers\.[01]|lm_head)\..*"
    tensors = load_file(folder / "model.safetensors")
    kept = {name: array for name, array in tensors.items() if not re.fullmatch(unread, name)}
    assert len(tensors) - len(kept) == 2 + 2 * 12
    save_file(kept, tmp_path / "model.safetensors")
    before = named_leaves(run.model)
    for name, array in loaded(tmp_path, run.config.model).items():
        assert np.array_equal(array, before[name]), name
