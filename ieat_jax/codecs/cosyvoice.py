"""CosyVoice-300M speech tokens, the units of GOAT-SLM, from `speech_tokenizer_v1.onnx` given by path.

The graph takes Whisper's 128-bin log-mel [1, 128, T] and its length [1] and returns ids [1, n] at 50 Hz, as called by
CosyVoice's own `cosyvoice/cli/frontend.py:_extract_speech_token`.
"""

from pathlib import Path

import numpy as np

from ieat_jax.audio.codec import GROUP_SIZE, CodecError, content_hash
from ieat_jax.audio.files import SAMPLE_RATE
from ieat_jax.audio.logmel import log_mel

MAX_SECONDS = 30.0


class CosyVoiceTokenizer:
    """A `UnitCodec` that encodes. Decoding needs CosyVoice's flow and vocoder, which are not part of this project."""

    name = "cosyvoice-300m"
    rate = 50
    vocab_size = 4098
    end_id = 4096
    group_size = GROUP_SIZE
    sample_rate = 22_050

    def __init__(self, path: str | Path):
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
            raise CodecError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error
        self._inputs = [node.name for node in self._session.get_inputs()]
        if len(self._inputs) != 2:
            raise CodecError(
                f"{path}: not a CosyVoice tokenizer: it takes the inputs {self._inputs}, not log-mel and length"
            )

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Encode a 16 kHz waveform [samples], at most 30 s, as int32 ids [n].

        Raises:
            CodecError: longer than 30 s.
        """
        if len(waveform) > MAX_SECONDS * SAMPLE_RATE:
            raise CodecError(f"{len(waveform) / SAMPLE_RATE:.1f} s of speech; CosyVoice tokens take {MAX_SECONDS:g} s")
        mel = log_mel(waveform, num_mels=128).T[None]
        feeds = dict(zip(self._inputs, (mel, np.array([mel.shape[2]], np.int32)), strict=True))
        return np.asarray(self._session.run(None, feeds)[0]).reshape(-1).astype(np.int32)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Refuse: ieat_jax does not include CosyVoice's vocoder.

        Raises:
            CodecError: always; it says what would be needed.
        """
        raise CodecError(
            "CosyVoice units become sound only with CosyVoice-300M-SFT's flow and HiFT vocoder (PyTorch), which "
            "ieat_jax does not include: save the units and pass them to CosyVoice's token2wav, or use the default codec"
        )

    def identity(self) -> dict:
        """Name, rate, vocabulary and a hash of the ONNX file."""
        digest = content_hash(self.path.read_bytes())
        return {"name": self.name, "rate": self.rate, "vocab_size": self.vocab_size, "hash": digest}
