"""What generation hears of a clip is what a row of training hears of it, in a window of its own or a shared one."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import tiny_run

from ieat_jax.audio.logmel import clip_log_mel
from ieat_jax.config.sections import Shapes
from ieat_jax.data.arrays import Clip, Lists, to_arrays
from ieat_jax.inference.listener import Listener
from ieat_jax.model.adapters import adapter_length, adapter_stride, slot_length
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig

ENCODER = EncoderConfig(num_layers=1, width=16, num_heads=2, mlp_width=16, num_mels=80, max_positions=50)
ADAPTERS = [
    AdapterConfig(kind="mlp"),
    AdapterConfig(kind="stack", hidden_width=24),
    AdapterConfig(kind="stack", stack_layers=1, stack_factor=4),
]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["mlp", "stack", "stack with layers"])
def test_training_and_generation_hear_the_same(adapter):
    listen = ListenConfig(ENCODER, adapter, layer_mix="last", clip_seconds=1.0)
    config = dataclasses.replace(tiny_run.CONFIG, listen=listen)
    model = tiny_run.random_model(config).listen
    sounds = [tiny_run.voice(number, seconds) for number, seconds in enumerate((1.0, 0.3001, 0.5, 0.999))]
    mels = [clip_log_mel(sound, num_mels=80, window_seconds=1.0, behind=listen.behind) for sound in sounds]
    row, start = Lists(), 0
    for mel in mels:
        frames = len(mel) - listen.behind
        clip = Clip(mel, adapter_length(adapter, frames), -1, slot_length(adapter, frames), listen.behind)
        row.clips.append(clip)
        row.starts.append(start)
        start += clip.slot
    expected = Listener(model, listen, 4)(mels)
    assert [len(heard) for heard in expected] == [clip.positions for clip in row.clips]
    hear = jax.jit(lambda model, *batch: model(*batch))
    own = to_arrays(row, Shapes(clips=4, frames=0), teacher=False, frames=100, mels=80)
    audio, lengths = hear(model, own.mel[None], own.clip_frames[None])
    assert lengths[0].tolist() == [clip.positions for clip in row.clips]
    window = -(-start // adapter_stride(adapter)) * adapter_stride(adapter)
    together = to_arrays(row, Shapes(clips=4, frames=window), teacher=False, frames=100, mels=80)
    shared, _ = hear(model, together.mel[None], together.clip_frames[None], together.clip_start[None])
    for number, heard in enumerate(expected):
        np.testing.assert_allclose(audio[0, number, : len(heard)], heard, atol=1e-5)
        first = row.starts[number] // adapter_stride(adapter)
        np.testing.assert_allclose(shared[0, 0, first : first + len(heard)], heard, atol=3e-5)
