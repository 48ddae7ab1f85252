r"""The token sequence of dialogues, for training rows and for prompts: a prompt is a row that stops before the answer.

    trunk     system | user 1, assistant header | reply 1 | user 2, assistant header | ...
    branches                    \- thinking 1, reply 1              \- thinking 2, reply 2

A branch sees the trunk before it and itself, so earlier thinking is hidden from later turns and takes no position
there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ieat_jax.text.chat import ChatFormat


@dataclasses.dataclass(frozen=True)
class Mark:
    """A place in a `TokenTree` that it can be taken back to."""

    size: int
    segment: int
    next: dict[int, int]


class TokenTree:
    """A growing token sequence with everything that says who sees whom; its lists have one entry a token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.segments: list[int] = []
        self.branches: list[int] = []
        self.audio: list[int] = []  # -1 = text, else index into the audio positions of all clips
        self.answers: list[int] = []
        self._segment = 1  # of what is added
        self._next = {0: 0}  # branch -> its next position; a new branch begins where the trunk stands

    def __len__(self) -> int:
        return len(self.tokens)

    def begin(self, segment: int) -> None:
        """Begin a segment, with positions from 0."""
        self._segment, self._next = segment, {0: 0}

    def add(self, tokens: Sequence[int], *, branch: int = 0, audio: int = -1) -> int:
        """Append text tokens, or the positions of a clip from index `audio` on; returns the place of the first."""
        first, count = len(self.tokens), len(tokens)
        start = self._next.get(branch, self._next[0])
        self.tokens += tokens
        self.positions += range(start, start + count)
        self.segments += [self._segment] * count
        self.branches += [branch] * count
        self.audio += range(audio, audio + count) if audio >= 0 else [-1] * count
        self.answers += [-1] * count
        self._next[branch] = start + count
        return first

    def mark(self) -> Mark:
        """The place where the tree stands now."""
        return Mark(len(self.tokens), self._segment, dict(self._next))

    def take_back(self, mark: Mark) -> None:
        """Remove everything that was added since `mark`."""
        for values in (self.tokens, self.positions, self.segments, self.branches, self.audio, self.answers):
            del values[mark.size :]
        self._segment, self._next = mark.segment, dict(mark.next)


def open_dialogue(tree: TokenTree, chat: ChatFormat, number: int, *, speech: bool) -> range:
    """Append the system prompt of dialogue `number` (from 0) and begin its segment.

    `speech`: Speak's system prompt stands before it, in a segment of its own; returns its places.
    """
    system = range(0)
    if speech:
        tree.begin(2 * number + 2)
        first = tree.add(chat.speech_system())
        system = range(first, len(tree))
    tree.begin(2 * number + 1)
    tree.add(chat.system())
    return system


def add_user(
    tree: TokenTree, chat: ChatFormat, *, clip: tuple[int, int] | None = None, text: Sequence[int] = ()
) -> range:
    """Append a user turn and the assistant's header; returns their places.

    `clip`: (its positions, index of the first among all audio positions); `text` token ids, which follow the clip.
    """
    first = tree.add(chat.user_open)
    if clip is not None:
        positions, index = clip
        tree.add([chat.audio_id] * positions, audio=index)
    if text:
        tree.add(text)
    tree.add(chat.user_close)
    return range(first, len(tree))


def open_answer(tree: TokenTree, chat: ChatFormat, branch: int, *, thinks: bool) -> range:
    """Append the opening of an answer's think block, or an empty block, to a branch; returns its places.

    Empty for a chat format that does not think.
    """
    first = tree.add(chat.think_open if thinks else chat.empty_think, branch=branch)
    return range(first, len(tree))
