"""What messages of one kind share, and the values by which they differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from scalable.analysis.layout import fit
from scalable.analysis.sections import Message

#: Replaces what differs.
GAP: Final = "…"
#: Messages that a pattern is made of at most; the rest is like them.
_MAX_READ: Final = 200
#: Values listed of messages that differ, and characters of each.
_MAX_VALUES: Final = 5
_MAX_VALUE: Final = 60
_TOKEN: Final = re.compile(r"\d+(?:[.,:]\d+)*|\w+|\s+|.", re.DOTALL)


class Pattern(NamedTuple):
    """Some messages in one."""

    text: str
    #: What each message has in the first gap, in the order of the messages.
    values: tuple[str, ...]


def pattern_of(messages: Sequence[str]) -> Pattern:
    """Put messages into one: what all share, and a gap where they differ.

    Examples
    --------
    >>> pattern_of(["cannot read 0.nc: byte 0", "cannot read 1.nc: byte 7"])
    Pattern(text='cannot read ….nc: byte …', values=('0', '1'))
    >>> pattern_of(["no file a", "no file b or c"]).text
    'no file …'
    """
    split = [_TOKEN.findall(message) for message in messages[:_MAX_READ]]
    if len({len(tokens) for tokens in split}) > 1:
        return _by_ends(split)
    gaps = [len(set(column)) > 1 for column in zip(*split, strict=True)]
    parts = [GAP if gap else token for gap, token in zip(gaps, split[0], strict=True)]
    text = re.sub(f"{GAP}{{2,}}", GAP, "".join(parts))
    if not any(gaps):
        return Pattern(text, ())
    first = gaps.index(True)
    end = next((at for at in range(first, len(gaps)) if not gaps[at]), len(gaps))
    return Pattern(text, tuple("".join(tokens[first:end]) for tokens in split))


def _by_ends(split: Sequence[Sequence[str]]) -> Pattern:
    """Messages of different lengths: what they begin and end with."""
    shortest = min(map(len, split))
    head = 0
    while head < shortest and len({tokens[head] for tokens in split}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head and len({tokens[-1 - tail] for tokens in split}) == 1:
        tail += 1
    tokens = split[0]
    text = "".join([*tokens[:head], GAP, *tokens[len(tokens) - tail :]])
    return Pattern(text, tuple("".join(row[head : len(row) - tail]) for row in split))


def message_and_values(message: str, messages: Sequence[str]) -> tuple[Message, str]:
    """Return what messages share, and in brackets the values by which they differ."""
    if len(messages) < 2:
        return Message(message), ""
    text, found = pattern_of(messages)
    values = list(dict.fromkeys(filter(None, map(str.strip, found))))
    if all(value.isdecimal() and len(value) < 20 for value in values):
        values.sort(key=int)
    shown = ", ".join(fit(value, _MAX_VALUE) for value in values[:_MAX_VALUES])
    more = ", …" if len(messages) > _MAX_VALUES else ""
    return Message(text), f"({len(messages):,} messages: {shown}{more})"
