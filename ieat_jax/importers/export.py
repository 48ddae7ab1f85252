"""`prepare export`: records of HumDial as the very lines that they were imported from, in the same tree."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ieat_jax.cli import add_output, path_argument
from ieat_jax.data.records import read_records, to_json, write_records
from ieat_jax.importers.corpus import CorpusError, Refusal
from ieat_jax.importers.dialogues import exported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare export`."""
    parser.add_argument("records", nargs="+", type=path_argument, metavar="RECORDS", help="of `prepare import humdial`")
    add_output(parser, "folder for the tree of lists")


def run(arguments: argparse.Namespace) -> int:
    """`prepare export`.

    Raises:
        CorpusError: a record is not from HumDial, or its list would lie outside of the folder or replace a file.
        RecordError: a line is no record.
    """
    lists: dict[Path, list[dict[str, Any]]] = {}
    for path in arguments.records:
        for record in read_records(path):
            try:
                name, value = exported(to_json(record))
            except Refusal as refusal:
                raise CorpusError(f"{path}: {record.dialogue_id} {refusal.message}") from refusal
            target = arguments.out / name
            if not target.resolve().is_relative_to(arguments.out.resolve()):
                raise CorpusError(f"{path}: {record.dialogue_id}: its list {name} leads out of --out")
            lists.setdefault(target, []).append(value)
    for target in lists:
        if target.exists():
            raise CorpusError(f"{target}: exists already; give a new folder as --out, so that no list is replaced")
    for target, values in lists.items():
        print(f"wrote {target}: {write_records(target, values)} dialogues")
    print(f"{sum(map(len, lists.values()))} dialogues in {len(lists)} lists")
    return 0
