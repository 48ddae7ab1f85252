"""CosyVoice's speech tokens, from its `speech_tokenizer_*.onnx` given by path; GOAT-SLM's are those of CosyVoice-300M.

The graph takes Whisper's 128-bin log-mel [1, 128, T] and its length [1] and returns ids [1, n], as called by
CosyVoice's own `cosyvoice/cli/frontend.py:_extract_speech_token`. The files differ in rate and codebook and look alike
from outside, so both are measured: the rate from how many ids known lengths give, the codes from the graph.
"""

import dataclasses
from pathlib import Path

import numpy as np

from ieat_jax.audio.codec import GROUP_SIZE, CodecError, content_hash
from ieat_jax.audio.files import SAMPLE_RATE
from ieat_jax.audio.logmel import log_mel
from ieat_jax.codecs.onnx_graph import codebook_size

MAX_SECONDS = 30.0
END_IDS = 2  # ids above the codes that end speech


@dataclasses.dataclass(frozen=True)
class Release:
    """A tokenizer that CosyVoice has released."""

    name: str
    rate: int  # ids per second
    codes: int
    sample_rate: int  # of the vocoder that belongs to it


RELEASES = (
    Release("cosyvoice-300m", 50, 4096, 22_050),
    Release("cosyvoice-300m-25hz", 25, 4096, 22_050),
    Release("cosyvoice2", 25, 6561, 24_000),
)


class CosyVoiceTokenizer:
    """A `UnitCodec` that encodes. Decoding needs CosyVoice's flow and vocoder, which are not part of this project."""

    group_size = GROUP_SIZE

    def __init__(self, path: str | Path):
        """Loads the graph and measures what it is.

        Raises:
            CodecError: no such file, no onnxruntime, or not a tokenizer of RELEASES.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise CodecError(f"{path}: no such file; it is `speech_tokenizer_v1.onnx` of the CosyVoice-300M release")
        try:
            import onnxruntime
        except ImportError as error:
            raise CodecError("CosyVoice tokens need onnxruntime: pip install 'ieat_jax[cosyvoice]'") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own classes, which are not public
            raise CodecError(f"{path}: onnxruntime cannot load it ({_line(error)})") from error
        self._inputs = [node.name for node in self._session.get_inputs()]
        if len(self._inputs) != 2:
            raise CodecError(
                f"{path}: not a CosyVoice tokenizer: it takes the inputs {self._inputs}, not log-mel and length"
            )
        release = self._measure()
        self.name, self.rate, self.end_id = release.name, release.rate, release.codes
        self.vocab_size, self.sample_rate = release.codes + END_IDS, release.sample_rate

    def _measure(self) -> Release:
        """Which release this is, by the ids of noise and by the codebook."""
        noise = np.random.default_rng(0).normal(0, 0.1, 4 * SAMPLE_RATE).astype(np.float32)
        short, long = self._ids(noise[:SAMPLE_RATE]), self._ids(noise)
        rate = round((len(long) - len(short)) / 3)
        codes, highest = codebook_size(self.path), int(max(long, default=0))
        known = "; ".join(f"{each.name}: {each.rate} Hz, {each.codes} codes" for each in RELEASES)
        fitting = [each for each in RELEASES if each.rate == rate and highest < each.codes == (codes or each.codes)]
        if codes is None and len(fitting) > 1:  # the larger codebook can only be told by its ids
            fitting = []
        if len(fitting) != 1 or min(long, default=0) < 0:
            said = f"{codes} codes" if codes else f"a codebook that cannot be found, and ids up to {highest}"
            raise CodecError(f"{self.path}: a tokenizer of {rate} Hz and {said} is none that is known here ({known})")
        return fitting[0]

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """16 kHz waveform [samples], at most 30 s -> int32 ids [n].

        Raises:
            CodecError: longer than that, or the graph fails or returns what is no code.
        """
        if len(waveform) > MAX_SECONDS * SAMPLE_RATE:
            raise CodecError(f"{len(waveform) / SAMPLE_RATE:.1f} s of speech; CosyVoice tokens take {MAX_SECONDS:g} s")
        ids = self._ids(waveform)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.end_id:
            raise CodecError(f"{self.path}: ids of {ids.min()} to {ids.max()}, but {self.name} has {self.end_id} codes")
        return ids

    def _ids(self, waveform: np.ndarray) -> np.ndarray:
        mel = log_mel(waveform, num_mels=128).T[None]
        feeds = dict(zip(self._inputs, (mel, np.array([mel.shape[2]], np.int32)), strict=True))
        try:
            return np.asarray(self._session.run(None, feeds)[0]).reshape(-1).astype(np.int32)
        except Exception as error:  # as above
            raise CodecError(
                f"{self.path}: the tokenizer fails on a log-mel of {mel.shape} ({_line(error)})"
            ) from error

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Refuse: ieat_jax does not include CosyVoice's vocoder.

        Raises:
            CodecError: always; it says what would be needed.
        """
        raise CodecError(
            "CosyVoice units become sound only with CosyVoice's own flow and HiFT vocoder (PyTorch), which "
            "ieat_jax does not include: save the units and pass them to CosyVoice's token2wav, or use the default codec"
        )

    def identity(self) -> dict:
        """Name, rate, vocabulary and a hash of the ONNX file."""
        digest = content_hash(self.path.read_bytes())
        return {"name": self.name, "rate": self.rate, "vocab_size": self.vocab_size, "hash": digest}


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
