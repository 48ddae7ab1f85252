"""A run as an Ultravox, a Qwen2-Audio and an AudioFlamingo3: the same words in other software, and the way back."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import soundfile
import torch
import transformers
from helpers import tiny_run
from helpers.ultravox_reference import Ultravox
from safetensors.numpy import load_file, save_file

from ieat_jax.audio.logmel import clip_frames
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.export import export, formats_of
from ieat_jax.interop.families.audio_llm import load_listen
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.model.adapters import adapter_length
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, ModelConfig
from ieat_jax.model.names import named_leaves
from ieat_jax.model.sight import Sight
from ieat_jax.training.initialise import InitError, initialise

ENCODER = EncoderConfig(num_layers=2, width=16, num_heads=2, mlp_width=32, num_mels=80, max_positions=50)
ADAPTERS = {
    "ultravox": {"kind": "stack", "hidden_width": 24},
    "ultravox, layers": {"kind": "stack", "stack_layers": 1, "stack_factor": 4},
    "ultravox, 0.4": {"kind": "stack", "hidden_width": 24, "activation": "gelu", "norm_mid": False},
    "qwen2_audio": {"kind": "linear"},
    "audio_flamingo3": {"kind": "mlp"},
}
LLMS = {"ultravox": {"qk_norm": True}, "qwen2_audio": {"qkv_bias": True}, "audio_flamingo3": {"tie_embeddings": True}}
SAID = "I am so sorry."
STOCK = {
    "qwen2_audio": transformers.Qwen2AudioForConditionalGeneration,
    "audio_flamingo3": transformers.AudioFlamingo3ForConditionalGeneration,
}


def configure(name, **fields):
    listen = ListenConfig(ENCODER, AdapterConfig(**ADAPTERS[name]), layer_mix="last", clip_seconds=1.0)
    llm = dataclasses.replace(tiny_run.CONFIG.llm, **LLMS.get(name, {}))
    return dataclasses.replace(ModelConfig(listen=listen, llm=llm, speak=tiny_run.CONFIG.speak), **fields)


def run_of(config, **options):
    return tiny_run.make_run(sizes=config, model=tiny_run.random_model(config), **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: name -> (run, folder of its export)."""
    made = {}

    def make(name):
        if name not in made:
            run = run_of(configure(name))
            folder = tmp_path_factory.mktemp(name.partition(",")[0]) / "out"
            export(run, folder, to=name.partition(",")[0])
            made[name] = run, folder
        return made[name]

    return make


def tokens_of(generator, dialogues, think):
    return [list(reply.tokens) for reply in generator.reply(dialogues, think=think)]


def voices(count, first=0):
    return [tiny_run.voice(number, 0.15 + number * 0.237 % 0.85) for number in range(first, first + count)]


def messages(turns):
    """A dialogue as an OpenAI client sends it."""
    found = [{"role": "system", "content": "You are kind."}]
    for turn in turns:
        parts = [{"type": "audio", "audio": turn.audio}] if turn.audio is not None else []
        parts += [{"type": "text", "text": turn.text}] if turn.text else []
        found.append({"role": "user", "content": parts})
        if turn.response is not None:
            found.append({"role": "assistant", "content": turn.response})
    return found


def dialogues():
    """14 dialogues: clips of many lengths, with and without text, several clips, no clip."""
    one = [[UserTurn(clip)] for clip in voices(6)]
    told = [[UserTurn(clip, text="I lost my keys.")] for clip in voices(3, 6)]
    a, b, c, d, e = voices(5, 2)
    more = [
        [UserTurn(a, response=SAID), UserTurn(b)],
        [UserTurn(b, response=SAID), UserTurn(c, response="You are kind."), UserTurn(d)],
        [UserTurn(text="I lost my keys.", response=SAID), UserTurn(e)],
        [UserTurn(c, text="I lost my keys.", response=SAID), UserTurn(text="You are kind.")],
        [UserTurn(text="The user feels sad.")],
    ]
    return one + told + more


def features_of(folder, clip):
    """The official log-mel of one clip [M, F], as Ultravox's processor has it: as long as the clip."""
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    found = extractor(
        [clip], sampling_rate=16000, padding="longest", pad_to_multiple_of=160, truncation=False,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    frames = int(found.attention_mask.sum())
    return found.input_features[0, :, :frames]


def rendered(tokenizer, turns, think):
    return tokenizer.apply_chat_template(
        messages(turns), tokenize=False, add_generation_prompt=True, enable_thinking=think
    )


@pytest.mark.parametrize(("name", "think"), [("ultravox", True), ("ultravox, layers", False)])
def test_ultravox_says_the_same(exported, name, think):
    run, folder = exported(name)
    generator = tiny_run.make_generator(run, batch_size=16)
    settings = json.loads((folder / "config.json").read_text())
    reference = Ultravox(settings).eval()
    state = {key: torch.from_numpy(value) for key, value in load_file(folder / "model.safetensors").items()}
    reference.load_state_dict(state, strict=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    never = json.loads((folder / "generation_config.json").read_text())["suppress_tokens"]
    ours = tokens_of(generator, dialogues(), think)
    assert len({tuple(reply) for reply in ours}) > 6  # not the same words to everyone
    for turns, reply in zip(dialogues(), ours, strict=True):
        clips = [features_of(folder, turn.audio) for turn in turns if turn.audio is not None]
        ids, pieces = [], rendered(tokenizer, turns, think).split("<|audio|>")
        factor = 2 * settings["stack_factor"]
        for piece, clip in zip(pieces, [*clips, None], strict=True):
            ids += tokenizer(piece, add_special_tokens=False).input_ids
            ids += [settings["audio_token_index"]] * (0 if clip is None else -(-clip.shape[1] // factor))
        assert ids == generator.prompts.build(turns, think=think, speech=False).tokens.tolist()
        # A reply is what the reference says, up to where our limits close its thinking.
        most = min(len(reply), generator.limits.think if think else generator.limits.response)
        assert reference.greedy(torch.tensor([ids]), clips, most=most, never=never) == reply[:most]


def test_logits_of_the_whole_ultravox(exported):
    run, folder = exported("ultravox")
    generator, turns = tiny_run.make_generator(run), dialogues()[10]
    host = generator.prompts.build(turns, think=True, speech=False)
    prompt, size = generator.stack([host], [0], 1), len(host.tokens)
    sight = Sight(prompt.positions, prompt.segment_ids)

    def compute(model):
        return model.text_logits(
            model.write(model.think(prompt.tokens, sight, prompt.heard[:, None], prompt.audio_index), sight)
        )

    ours = np.asarray(jax.jit(compute)(run.model))[0, :size]
    reference = Ultravox(json.loads((folder / "config.json").read_text())).eval()
    state = {key: torch.from_numpy(value) for key, value in load_file(folder / "model.safetensors").items()}
    reference.load_state_dict(state, strict=True)
    clips = [features_of(folder, turn.audio) for turn in turns if turn.audio is not None]
    ids = torch.from_numpy(np.where(host.audio_index >= 0, reference.audio_token, host.tokens))[None]
    with torch.no_grad():
        theirs = reference.language_model(inputs_embeds=reference.embeddings(ids, clips)).logits[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize("name", STOCK)
def test_stock_classes_say_the_same(exported, name, tmp_path):
    run, folder = exported(name)
    generator = tiny_run.make_generator(run, batch_size=16)
    model, told = STOCK[name].from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    processor = transformers.AutoProcessor.from_pretrained(folder)
    known = dialogues()
    if name == "audio_flamingo3":
        known = [turns for turns in known if sum(turn.audio is not None for turn in turns) == 1]
        known += [[UserTurn(clip, text=SAID)] for clip in voices(4, 9)]
    assert len(known) >= 12
    ours = tokens_of(generator, known, think=False)
    assert len({tuple(reply) for reply in ours}) > 6
    for number, (turns, reply) in enumerate(zip(known, ours, strict=True)):
        clips = []
        for turn in turns:
            if turn.audio is not None:
                soundfile.write(tmp_path / f"{number}.wav", turn.audio, 16000, subtype="FLOAT")
                clips.append(soundfile.read(tmp_path / f"{number}.wav", dtype="float32")[0])
        text = rendered(processor.tokenizer, turns, think=False)
        heard = {"audio": clips, "sampling_rate": 16000} if clips else {}
        inputs = processor(text=[text], return_tensors="pt", **heard)
        assert inputs.input_ids[0].tolist() == generator.prompts.build(turns, think=False, speech=False).tokens.tolist()
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=len(reply), do_sample=False)
        theirs = out[0, inputs.input_ids.shape[1] :].tolist()
        assert theirs == reply[: len(theirs)]
        assert len(theirs) == min(len(reply), generator.limits.response)


@pytest.mark.parametrize("kind", ["mlp", "linear", "stack"])
def test_lengths_are_the_official_processors(kind):
    samples = np.concatenate([np.arange(1, 2000), np.arange(2000, 480_001, 37), np.arange(479_000, 480_001)])
    listen = ListenConfig(adapter=AdapterConfig(kind=kind), layer_mix="last")
    frames = clip_frames(samples, window_seconds=30.0, behind=listen.behind)
    extractor = transformers.WhisperFeatureExtractor()
    for count in (1, 159, 160, 161, 320, 321, 4000, 15_999, 16_001, 479_999, 480_000):
        mask = extractor(np.zeros(count, np.float32), sampling_rate=16000, return_attention_mask=True).attention_mask
        assert mask.sum() == clip_frames(count, window_seconds=30.0, behind=listen.behind)
    positions = adapter_length(listen.adapter, frames)
    if kind == "stack":  # Ultravox's processor: at least two frames, then the ceiling
        expected = np.ceil(np.maximum(np.ceil(samples / 160), 2) / 16)
    else:  # those of Qwen2-Audio and AudioFlamingo3
        expected = (((np.ceil(samples / 160).astype(int) - 1) // 2 + 1) - 2) // 2 + 1
    np.testing.assert_array_equal(positions, expected)
    heard = dataclasses.replace(listen, padding="heard")
    assert heard.behind is None
    assert clip_frames(16_000, window_seconds=30.0) == 102  # which all hold some of the sound


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_way_back_is_bit_equal(exported, name):
    run, folder = exported(name)
    before = {key: np.asarray(leaf) for key, leaf in named_leaves(run.model).items()}
    listen, llm = load_listen(str(folder)), load_llm(str(folder))
    config = dataclasses.replace(run.config.model, llm=llm.config)
    assert dataclasses.replace(listen.listen, padding="auto") == run.config.model.listen
    after = dict(listen.weights(run.config.model.listen)) | dict(llm.weights(config))
    heard = {key for key in before if key.startswith(("listen.", "think.", "write."))}
    assert heard <= set(after)
    assert all(key.startswith("speak.") for key in set(after) - heard)
    for key in heard:
        np.testing.assert_array_equal(after[key], before[key], err_msg=key)
    shapes = listen.shapes(run.config.model.listen) | llm.shapes(config)
    assert {key: array.shape for key, array in after.items() if key in shapes} == shapes


def test_a_run_begins_from_a_container(exported):
    run, folder = exported("ultravox")
    new = (r"emotion\..*", r"speak\..*")
    init = dataclasses.replace(run.config.init, whisper=str(folder), llm=str(folder), allow_new=new)
    model, handover = initialise(dataclasses.replace(run.config, init=init), None)
    before, after = named_leaves(run.model), named_leaves(model)
    assert set(handover.loaded) >= {name for name in before if name.startswith(("listen.", "think.", "write."))}
    for name in handover.loaded:
        if not name.startswith("speak."):  # which begins as Write
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    other = dataclasses.replace(run.config.model.llm, num_layers=3)
    with pytest.raises(InitError, match=r"config\.model\.llm\.num_layers: 2 there, 3 here"):
        initialise(
            dataclasses.replace(run.config, init=init, model=dataclasses.replace(run.config.model, llm=other)), None
        )


def test_everything_that_is_wrong_with_the_tensors_is_told_at_once(exported, tmp_path):
    run, folder = exported("ultravox")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    shorter = tensors["multi_modal_projector.linear_1.weight"][:-1].copy()
    save_file(
        {key: array for key, array in tensors.items() if key != "audio_tower.conv1.bias"}
        | {"multi_modal_projector.linear_1.weight": shorter, "multi_modal_projector.linear_9.weight": shorter},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(InteropError) as caught:
        load_listen(str(tmp_path)).weights(run.config.model.listen)
    told = str(caught.value)
    assert "1 missing, 1 of a wrong shape, 1 unexpected" in told
    for word in ("missing: audio_tower.conv1.bias", "projector.linear_1.weight is (23,", "projector.linear_9.weight"):
        assert word in told
    tensors["multi_modal_projector.linear_1.weight"][0, 0] = np.nan
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InteropError, match=r"linear_1\.weight: 1 of \d+ numbers are NaN"):
        dict(load_listen(str(tmp_path)).weights(run.config.model.listen))
    other = dataclasses.replace(run.config.model.listen, layer_mix="learned")
    with pytest.raises(InteropError, match=r"layer_mix = 'learned', the weights' is 'last'"):
        load_listen(str(folder)).shapes(other)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, r"its adapter is 'stack', AudioFlamingo3 has 'mlp'; it can be written as .*ultravox"),
        (
            {"layer_mix": "learned"},
            r"a mix of layers, the container's encoder its last alone.*can be written as huggingface",
        ),
        ({"padding": "heard"}, r"its encoder hears the padding, the container's masks it"),
    ],
)
def test_what_a_container_cannot_hold_is_one_error(tmp_path, change, reason):
    config = configure("ultravox")
    run = run_of(dataclasses.replace(config, listen=dataclasses.replace(config.listen, **change)))
    with pytest.raises(InteropError) as caught:
        export(run, tmp_path / "out", to="ultravox" if change else "audio_flamingo3")
    assert re.search(reason, str(caught.value))
    assert not list(tmp_path.iterdir())


def test_every_adapter_has_its_container():
    containers = {name.partition(",")[0] for name in ADAPTERS}
    for name in ADAPTERS:
        fitting = {to for to, why in formats_of(run_of(configure(name))).items() if why is None}
        assert fitting & containers == {name.partition(",")[0]}


def test_the_export_says_what_it_cannot_do(exported):
    assert "One clip in a prompt: single turns" in (exported("audio_flamingo3")[1] / "README.md").read_text()
    assert "Any number of clips" in (exported("ultravox")[1] / "README.md").read_text()
