"""`prepare tfds`: shards as a data set of TensorFlow Datasets, made and read without TensorFlow.

An example is a dialogue. `ieat_record` holds the record as JSON without its units; beside it stand, for those who read
it with other software, `turns` with what is said, felt and answered and the sound as the bytes of a FLAC file at 16 kHz
(float WAV where samples lie beyond -1..1), and `units` of all turns together, `turns/unit_count` of them of each turn
(-1 = none). The order is that of the shards.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio.flac import SAMPLE_RATE, encode_flac
from ieat_jax.cli import add_output
from ieat_jax.data.records import Record, to_json
from ieat_jax.data.sources.array_record import ArrayRecords
from ieat_jax.data.sources.features import OURS, as_wav
from ieat_jax.errors import UserError
from ieat_jax.storage import local_path

CARD = "card.json"
_NAME, _VERSION, _SPLIT = re.compile(r"[a-z][a-z0-9_]*"), re.compile(r"\d+\.\d+\.\d+"), re.compile(r"[A-Za-z]\w*")


class TfdsError(UserError):
    """A data set of TFDS that cannot be made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare tfds`."""
    parser.add_argument(
        "--shards",
        required=True,
        nargs="+",
        metavar="[SPLIT=]FOLDER",
        help="of `prepare shards`; without a split: train",
    )
    add_output(parser, "the folder of all data sets, TFDS_DATA_DIR to others")
    parser.add_argument("--name", required=True, help="of the data set: small letters, digits, _")
    parser.add_argument("--version", dest="data_version", default="1.0.0", help="of the data set (default: 1.0.0)")


def run(arguments: argparse.Namespace) -> int:
    """`prepare tfds`.

    Raises:
        TfdsError: a name that cannot be used, or a data set that is there already.
        DataError: shards that cannot be used.
    """
    name, version = arguments.name, arguments.data_version
    if not _NAME.fullmatch(name):
        raise TfdsError(f"--name {name}: small letters, digits and _ make the name of a data set, as in my_corpus")
    if not _VERSION.fullmatch(version):
        raise TfdsError(f"--version {version}: must be three numbers, as in 1.0.0")
    splits: dict[str, ArrayRecords] = {}
    for text in arguments.shards:
        split, _, folder = text.rpartition("=")
        split = split or "train"
        if not _SPLIT.fullmatch(split) or split in splits:
            raise TfdsError(f"--shards {text}: {split!r} is given twice, or is no name for a split")
        splits[split] = ArrayRecords(local_path(folder, "--shards"), check="all")
    made = build(arguments.out, name, version, splits)
    counts = ", ".join(f"{split}: {len(source)} dialogues" for split, source in splits.items())
    print(f"wrote {made}: {counts}; a recipe reads it as tfds:{made}[{next(iter(splits))}]")
    return 0


def build(folder: Path, name: str, version: str, splits: Mapping[str, ArrayRecords]) -> Path:
    """Make a data set of shards by splits; return its folder.

    Raises:
        TfdsError: it is there already, or TFDS cannot write it.
    """
    import tensorflow_datasets as tfds  # half a second

    place = folder.absolute() / name / version
    if place.exists():
        raise TfdsError(f"{place}: is there already; give another --version or --name, or remove it")
    for left in place.parent.glob(f"incomplete.*_{version}"):  # TFDS leaves it behind when it is killed
        shutil.rmtree(left)
    builder = _builder_class(tfds, name, version, splits)(data_dir=folder.absolute(), file_format="array_record")
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, UserError | OSError) else error
        raise TfdsError(f"{place}: cannot be made ({cause})") from error
    return Path(builder.data_path)


def _builder_class(tfds: Any, name: str, version: str, splits: Mapping[str, ArrayRecords]) -> type:
    features = tfds.features

    with tfds.core.registered.skip_registration():

        class Dialogues(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)

            def _info(self) -> Any:
                turn = {
                    "text": features.Text(),
                    "emotion": features.Text(doc="one of HumDial's seven and boredom; empty = unknown"),
                    "response_text": features.Text(),
                    "response_emotion": features.Text(doc="style of the reply; empty = unknown"),
                    "audio": features.Text(
                        doc=f"bytes of a sound file of one channel at {SAMPLE_RATE} Hz; empty = none"
                    ),
                    "unit_count": features.Scalar(np.int32, doc="of `units`; -1 = the reply has none"),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    description="Spoken dialogues with emotional attribution, prepared by ieat_jax.",
                    license=_licences(splits.values()),
                    disable_shuffling=True,
                    features=features.FeaturesDict(
                        {
                            "id": features.Text(),
                            "language": features.Text(),
                            OURS: features.Text(doc="the record as JSON, without units"),
                            "turns": features.Sequence(turn),
                            "units": features.Tensor(shape=(None,), dtype=np.int32),
                        }
                    ),
                )

            def _split_generators(self, manager: Any) -> dict[str, Any]:
                return {split: self._generate_examples(source) for split, source in splits.items()}

            def _generate_examples(self, source: ArrayRecords) -> Iterator[tuple[int, dict[str, Any]]]:
                for number in range(len(source)):
                    yield number, example_of(source, number)

    Dialogues.name = name
    return Dialogues


def example_of(source: ArrayRecords, number: int) -> dict[str, Any]:
    """The example of a dialogue.

    Raises:
        DataError: the shards are damaged.
    """
    record = source.record(number)
    units = [turn.units for turn in record.turns]
    sounds = [b"" if turn.audio is None else _sound(source, number, index) for index, turn in enumerate(record.turns)]
    return {
        "id": record.dialogue_id,
        "language": record.language,
        OURS: json.dumps(_without_units(record), ensure_ascii=False),
        "turns": [
            {
                "text": turn.text,
                "emotion": turn.emotion or "",
                "response_text": turn.response_text,
                "response_emotion": turn.response_emotion or "",
                "audio": sound,
                "unit_count": -1 if turn.units is None else len(turn.units),
            }
            for turn, sound in zip(record.turns, sounds, strict=True)
        ],
        "units": np.concatenate([np.zeros(0, np.int32), *(each for each in units if each is not None)]),
    }


def _sound(source: ArrayRecords, number: int, turn: int) -> bytes:
    waveform = source.waveform(number, turn, float("inf"))
    flac = encode_flac(waveform)
    return as_wav(waveform, SAMPLE_RATE, source.place(number)) if flac.shift else flac.content


def _without_units(record: Record) -> dict[str, Any]:
    value = to_json(record)
    return {**value, "turns": [turn.raw for turn in record.turns]}


def _licences(sources: Any) -> str:
    found = set()
    for source in sources:
        card = source.folder / CARD
        if card.is_file():
            found |= {origin["licence"] for origin in json.loads(card.read_text(encoding="utf-8"))["origins"]}
    return "; ".join(sorted(found - {""})) or "not named"
