"""From the features of an example of TFDS to our record, as `config.data.sources.NAME.features` maps them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile

from ieat_jax.audio.files import AudioError, count_audio_bytes
from ieat_jax.config.sections import FeaturesConfig
from ieat_jax.data.jsonl import RecordError
from ieat_jax.errors import ConfigError

OURS = "ieat_record"  # feature of the data sets that `prepare tfds` makes: the record as JSON
UNITS, UNIT_COUNT = "units", "turns/unit_count"  # of those
# field -> where it stands in a turn
_TURN = {
    "words": ("text",),
    "reply": ("response_text",),
    "emotion": ("ieat", "emotion", "label"),
    "intensity": ("ieat", "emotion", "intensity"),
    "style": ("ieat", "response", "emotion"),
    "cause": ("ieat", "cause", "text"),
}
_META = ("language", "speaker")


class FeatureMap:
    """Makes records and the bytes of sound files of examples."""

    def __init__(self, config: FeaturesConfig, features: Any, field: str):
        """`features`: of the data set, `field`: the name of the section, for messages.

        Raises:
            ConfigError: a feature that the data set does not have, or sound without a rate.
        """
        self._config = config
        self._ours = OURS in features and config == FeaturesConfig()
        self._audio = "turns/audio" if self._ours else config.audio
        names = {name: getattr(config, name) for name in (*_TURN, *_META, "id", "audio", "turns")}
        if not self._ours:
            for name, path in names.items():
                if path and not path.startswith("=") and _inside(features, path) is None:
                    listed = ", ".join(sorted(_names(features)))
                    raise ConfigError(f"{field}.{name} = {path!r}: the data set has no such feature; it has {listed}")
            for name in ("audio", *_TURN):
                path = names[name]
                if config.turns and path and not path.startswith(("=", config.turns + "/")):
                    message = (
                        f"must lie in {config.turns}/, the feature of turns, as {config.turns}/{path.split('/')[-1]}"
                    )
                    raise ConfigError(f"{field}.{name} = {path!r}: {message}")
        found = _inside(features, self._audio) if self._audio else None
        numbers = found is not None and getattr(found, "np_dtype", None) is not None and _is_number(found)
        self._rate = config.rate or getattr(found, "sample_rate", None) or 0
        if numbers and not self._rate:
            raise ConfigError(
                f"{field}.rate: the sound of {self._audio} is given as numbers; say how many are a second"
            )
        self._labels = {
            name: label for name, path in names.items() if path and hasattr(label := _inside(features, path), "int2str")
        }

    def record(self, example: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The JSON object of a record; `name`: its id where no feature has one.

        Raises:
            RecordError: what should be our own record is not.
        """
        if self._ours:
            return _own(example)
        config = self._config
        count = self._turns(example)
        turns = []
        for index in range(count):
            turn: dict[str, Any] = {"turn_id": index + 1}
            for field, path in _TURN.items():
                value = self._text(field, example, index)
                if value is not None:
                    _put(turn, path, value)
            if self._sound(example, index) is not None:
                turn["split_audio_file"] = f"{config.audio}-{index + 1}"
            turn.setdefault("text", "")
            turns.append(turn)
        made: dict[str, Any] = {"dialogue_id": self._text("id", example, 0) or name, "turns": turns}
        meta = {field: text for field in _META if (text := self._text(field, example, 0)) is not None}
        return {**made, "ieat_meta": meta} if meta else made

    def sound(self, example: Mapping[str, Any], turn: int, where: str) -> bytes | None:
        """The sound of turn `turn`, from 0, as the bytes of a file; None = there is none.

        Raises:
            AudioError: it is no sound.
        """
        value = self._sound(example, turn)
        if value is None or isinstance(value, bytes):
            return value
        return as_wav(np.asarray(value), self._rate, where)

    def _sound(self, example: Mapping[str, Any], turn: int) -> Any:
        value = self._value(self._audio, example, turn)
        return None if value is None or len(value) == 0 else value

    def measured(self, example: Mapping[str, Any], turn: int, where: str) -> tuple[bytes, int, str]:
        """(bytes of the sound of a turn, how many samples it has at 16 kHz at most, code of what is wrong with it)."""
        content = b""
        try:
            content = self.sound(example, turn, where) or b""
            return content, count_audio_bytes(content, where=where) if content else 0, ""
        except AudioError as error:
            return content, 0, error.code

    def _turns(self, example: Mapping[str, Any]) -> int:
        if not self._config.turns:
            return 1
        inside = _inside(example, self._config.turns)
        first = next(iter(inside.values())) if isinstance(inside, Mapping) else inside
        return len(first) if first is not None else 0

    def _value(self, path: str, example: Mapping[str, Any], turn: int) -> Any:
        if not path:
            return None
        value = _inside(example, path)
        if self._ours or (self._config.turns and path.startswith(self._config.turns + "/")):
            return value[turn] if value is not None and turn < len(value) else None
        return value

    def _text(self, field: str, example: Mapping[str, Any], turn: int) -> str | None:
        path = getattr(self._config, field)
        if path.startswith("="):
            return path[1:]
        value = self._value(path, example, turn)
        if value is None:
            return None
        if field in self._labels:
            return None if int(value) < 0 else self._labels[field].int2str(int(value))  # -1: TFDS's "no label"
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return str(value)


def as_wav(samples: np.ndarray, rate: int, where: str) -> bytes:
    """The bytes of a WAV file of samples [n] or [n, channels]: whole numbers of 16 bits, or fractions.

    Raises:
        AudioError: another shape, no numbers, or whole numbers that do not fit into 16 bits.
    """
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        raise AudioError("not_audio", where, f"{samples.dtype} of shape {samples.shape} is no sound")
    if samples.dtype.kind in "iu":
        if samples.min() < -(1 << 15) or samples.max() >= 1 << 15:
            raise AudioError("out_of_range", where, "whole numbers beyond 16 bits; give fractions between -1 and 1")
        samples, subtype = samples.astype(np.int16), "PCM_16"
    else:
        samples, subtype = samples.astype(np.float32), "FLOAT"
    made = io.BytesIO()
    soundfile.write(made, samples, rate, format="WAV", subtype=subtype)
    return made.getvalue()


def _own(example: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an example that `prepare tfds` made: its JSON, with the units that lie beside it."""
    try:
        value = json.loads(example[OURS])
        counts = [int(count) for count in _inside(example, UNIT_COUNT)]
        units = np.asarray(example[UNITS])
        ends = np.cumsum([max(count, 0) for count in counts]).tolist()
        for turn, count, end in zip(value["turns"], counts, ends, strict=True):
            if count >= 0:
                _put(turn, ("ieat", "response", "units"), units[end - count : end].tolist())
        return value
    except (TypeError, ValueError, KeyError) as error:
        raise RecordError("not_json", OURS, 0, f"is not what `prepare tfds` writes ({error})") from error


def _put(turn: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        turn = turn.setdefault(name, {})
    turn[path[-1]] = value


def _inside(features: Any, path: str) -> Any:
    """What stands at a/b/c of features or of an example; None = nothing does."""
    for name in path.split("/"):
        inner = getattr(features, "feature", features)  # of a Sequence
        try:
            features = inner[name]
        except (KeyError, TypeError, IndexError):
            return None
    return features


def _names(features: Any, before: str = "") -> list[str]:
    found: list[str] = []
    for name, inner in features.items():
        inside = getattr(inner, "feature", inner)
        found += _names(inside, f"{before}{name}/") if hasattr(inside, "items") else [before + name]
    return found


def _is_number(feature: Any) -> bool:
    return np.dtype(feature.np_dtype).kind in "iuf"
