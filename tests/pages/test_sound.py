"""Sound in a page is the sound that was given, and brings its own picture."""

import base64
import io
import re

import numpy as np
import soundfile

from ieat_jax.pages.sound import player


def test_a_player_holds_the_sound_itself_and_says_what_it_is():
    time = np.arange(24_000) / 24_000
    wave = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    text = player(wave, 'what "they" said', sample_rate=24_000)
    (data,) = re.findall(r'src="data:audio/flac;base64,([^"]+)"', text)
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")
    assert rate == 24_000
    np.testing.assert_allclose(heard, wave, atol=2**-15)
    assert 'aria-label="what &quot;they&quot; said"' in text
    assert 'alt="spectrogram: what &quot;they&quot; said"' in text
