"""Descriptions of the arguments and results of tasks: their form, and how they are bounded.

A description is a table with a `name`, a `kind` (``json`` if `value` is the whole value as JSON,
``object`` if not, ``metric`` for a number that the task recorded), and what is known of `type`,
`length`, `shape`, `dtype`, `size_bytes`, `digest`, `description`. A `preview` is the beginning of a
value that is too long, as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import orjson

#: Of which attempts the arguments are described; `sample` and `all` are of those that succeed, too,
#: with what they return.
Level = Literal["off", "failed", "sample", "all"]

#: Bytes of the descriptions of one attempt's arguments, as JSON, and of its results.
MAX_BYTES: Final = 2_000
#: Values of one call that are described.
MAX_DESCRIBED: Final = 50
#: Fields that go first if there is too much, in this order.
_LESS: Final = ("preview", "dtype", "digest", "description", "value", "catalog")

Description = dict[str, Any]


def bounded(
    entries: Sequence[Description], limit: int = MAX_BYTES, *, more: int = 0
) -> list[Description]:
    """Descriptions that take at most `limit` bytes as JSON.

    Parameters
    ----------
    entries : sequence
        The descriptions; they are not changed.
    limit : int
        Bytes.
    more : int
        Number of values that are not among them.

    Returns
    -------
    list
        The longest are shortened, and the last are left out where that is not enough: an entry
        with the name ``…`` says how many.
    """
    kept = list(entries[:MAX_DESCRIBED])
    sizes = [len(orjson.dumps(entry)) + 1 for entry in kept]
    reserve = 64
    for field in _LESS:
        while sum(sizes) > limit - reserve:
            longest = max(range(len(kept)), key=sizes.__getitem__)
            if field not in kept[longest]:
                break
            kept[longest] = _without(kept[longest], field)
            sizes[longest] = len(orjson.dumps(kept[longest])) + 1
    while sizes and sum(sizes) > limit - reserve:
        kept.pop()
        sizes.pop()
    more += len(entries) - len(kept)
    if more:
        kept.append({"name": "…", "kind": "object", "description": f"{more:,} more"})
    return kept


def _without(entry: Description, field: str) -> Description:
    shorter = {name: value for name, value in entry.items() if name != field}
    if field == "value":
        shorter["kind"] = "object"
    return shorter
