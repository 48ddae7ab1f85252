"""A scored folder as the report reads it: only what `score` wrote, and nothing outside of the folder."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ieat_jax.errors import UserError
from ieat_jax.evaluation.score import METRICS, PREDICTIONS, TRAINING
from ieat_jax.storage import local_path

_TEXTS = ("gold_emotion", "predicted_emotion", "transcript", "reference_text", "think", "text", "spoken_transcript")
_AGAIN = "score the run again"


class ReportError(UserError):
    """A scored folder that the report cannot read, or a page that it cannot write."""


@dataclass(frozen=True)
class ScoredRun:
    """What `score` left in one folder."""

    name: str
    folder: Path
    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]
    training: list[dict[str, Any]]


def read_scored(name: str, folder: Path) -> ScoredRun:
    """Read one folder written by `python -m ieat_jax.evaluate score`.

    Raises:
        ReportError: it was not, or a file in it is damaged.
    """
    path = local_path(folder / METRICS, "report:")
    if not path.is_file():
        raise ReportError(
            f"report: {folder} (run {name!r}) has no {METRICS}; write it with `python -m ieat_jax.evaluate "
            f"score --out {folder} ...`"
        )
    try:
        metrics = json.loads(path.read_bytes())
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: is not JSON ({error}); {_AGAIN}") from error
    if not isinstance(metrics, dict):
        raise ReportError(f"{path}: is not one JSON object; {_AGAIN}")
    predictions = _read_lines(folder / PREDICTIONS)
    for number, line in predictions:
        _check_prediction(folder, number, line)
    training = _read_lines(folder / TRAINING, cut=True)
    return ScoredRun(name, folder, metrics, [line for _, line in predictions], [line for _, line in training])


def _read_lines(path: Path, *, cut: bool = False) -> list[tuple[int, dict[str, Any]]]:
    """(number, object) of every line that is not blank; none without the file.

    Lines end at newline bytes only: U+2028, U+0085 and their like are text. `cut`: a last line without newline may be
    half a line, because the file was copied while it grew.
    """
    if not local_path(path, "report:").is_file():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror or error})") from error
    lines = content.split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if cut and number == len(lines):
                break
            raise ReportError(f"{path}:{number}: is not JSON ({error}); {_AGAIN}") from error
        if not isinstance(value, dict):
            raise ReportError(f"{path}:{number}: is not a JSON object; {_AGAIN}")
        found.append((number, value))
    return found


def _check_prediction(folder: Path, number: int, line: dict[str, Any]) -> None:
    where = f"{folder / PREDICTIONS}:{number}"
    if not isinstance(line.get("dialogue_id"), str) or type(line.get("turn_id")) is not int:
        raise ReportError(f"{where}: dialogue_id has to be a string and turn_id a whole number; {_AGAIN}")
    for field in _TEXTS:
        if not isinstance(line.get(field), str | None):
            raise ReportError(f"{where}: {field} has to be a string or null; {_AGAIN}")
    sample = line.get("sample", {})
    if not isinstance(sample, dict):
        raise ReportError(f"{where}: sample has to be an object; {_AGAIN}")
    for kind, path in sample.items():
        if not isinstance(path, str) or not _inside(folder, path):
            raise ReportError(f"{where}: sample.{kind} {path!r:.200} is no file of the scored folder; {_AGAIN}")


def _inside(folder: Path, path: str) -> bool:
    """Whether a relative path stays in the folder, also behind symbolic links."""
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or "\\" in path:
        return False
    try:
        return (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a circle of links
        return False
