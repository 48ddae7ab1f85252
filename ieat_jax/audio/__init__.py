"""Waveform in, waveform out: decoding with checks, log-mel, pitch, vocoder, unit codecs."""
