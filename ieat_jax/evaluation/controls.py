"""Controls that show whether an answer comes from the voice: another clip, or silence, in its place."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ieat_jax.errors import UserError
from ieat_jax.evaluation.items import Item
from ieat_jax.inference.prompt import UserTurn


def control_dialogues(items: Sequence[Item], *, seed: int = 0) -> dict[str, list[list[UserTurn]]]:
    """The dialogues of two or more items with other audio in place of the user's: 'silence' and 'shuffled'.

    Raises:
        UserError: there are fewer than two items.
    """
    voices = [item.turns[-1].audio for item in items]
    # Equally long for all: the length of a clip tells about the voice, too.
    silence = np.zeros(int(np.median([len(voice) for voice in voices])), np.float32)
    others = {
        "silence": [silence] * len(items),
        "shuffled": [voices[source] for source in balanced_sources([item.emotion for item in items], seed=seed)],
    }
    return {
        name: [[_with_audio(turn, other) for turn in item.turns] for item, other in zip(items, audio, strict=True)]
        for name, audio in others.items()
    }


def _with_audio(turn: UserTurn, audio: np.ndarray) -> UserTurn:
    """A spoken turn with another clip in place of its own."""
    return turn if turn.audio is None else replace(turn, audio=audio)


def balanced_sources(labels: Sequence[int], *, seed: int = 0) -> list[int]:
    """For each item the index of the item whose audio it is given instead.

    Each true class receives clips of all classes evenly (so a model that hears only the clip scores chance, not
    below), no item keeps its own clip, and with equal class sizes that the number of classes divides, every clip is
    used exactly once.

    Raises:
        UserError: there are fewer than two items.
    """
    if len(labels) < 2:
        raise UserError(
            f"shuffled-audio control: needs at least 2 clips, there are {len(labels)}; score more or switch it off"
        )
    rng = np.random.default_rng(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for index in rng.permutation(len(labels)):
        members[labels[index]].append(int(index))
    classes = sorted(members)
    wanted: list[tuple[int, int]] = []
    for row, label in enumerate(classes):
        wanted += [(index, classes[(row + rank) % len(classes)]) for rank, index in enumerate(members[label])]
    # An item that draws from its own class can meet its own clip: serve those first, while the queue still offers
    # another.
    wanted.sort(key=lambda pair: labels[pair[0]] != pair[1])
    queues = {label: deque(members[label]) for label in classes}
    sources = [-1] * len(labels)
    for index, source_class in wanted:
        sources[index] = _take(queues[source_class], index, members[source_class], labels)
    return sources


def _take(queue: deque, item: int, pool: list[int], labels: Sequence[int]) -> int:
    """The next clip of a class that is not the item's own, refilling the queue when it runs out."""
    if not queue or (len(queue) == 1 and queue[0] == item):
        queue.extend(pool)
    for _ in range(len(queue)):
        source = queue.popleft()
        if source != item:
            return source
        queue.append(source)
    # A class with one clip cannot serve itself: any other item's clip will do.
    return next(other for other in range(len(labels)) if other != item)
