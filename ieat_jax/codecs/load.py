"""Load a unit codec by what its path holds."""

from __future__ import annotations

from pathlib import Path

from ieat_jax.audio.codec import CodecError, UnitCodec
from ieat_jax.storage import local_path


def load_codec(spec: str | Path) -> UnitCodec:
    """Load a codec: a folder written by `MelCodec.save`, or CosyVoice's `speech_tokenizer_v1.onnx`.

    Raises:
        CodecError: there is none, or it is damaged or unknown.
    """
    path = local_path(spec, "codec")
    if path.suffix == ".onnx":
        from ieat_jax.codecs.cosyvoice import CosyVoiceTokenizer

        return CosyVoiceTokenizer(path)
    if not (path / "codec.json").is_file():
        raise CodecError(
            f"{path}: no codec here (a codec is a folder with codec.json, or a CosyVoice .onnx file); "
            "train one with `python -m ieat_jax.prepare codec`"
        )
    from ieat_jax.codecs.mel import MelCodec

    return MelCodec.load(path)
