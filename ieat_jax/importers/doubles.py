"""Copies of recordings inside of a corpus: some archives hold every file twice."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Iterator

from ieat_jax.importers.corpus import Found, Place, Refused


def without_doubles(place: Place, items: Iterable[Found | Refused]) -> Iterator[Found | Refused]:
    """The same items, but a record of a recording that has been met before is set aside.

    It is the same recording when dialogue_id and bytes are the same. What has the same id and other bytes is left to
    the check for ids that stand twice.
    """
    first: dict[str, str] = {}
    for item in items:
        if isinstance(item, Found):
            name, path = item.record["dialogue_id"], item.inputs[0]
            known = first.setdefault(name, path)
            if known != path and filecmp.cmp(place.folder / known, place.folder / path, shallow=False):
                yield Refused(item.inputs, "double", f"{path}: is a copy of {known}", meant=True)
                continue
        yield item
