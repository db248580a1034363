"""Names that summaries group by: of tasks, of causes of failures, of workers."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final, TypeGuard

#: The group of everything beyond a limit.
OTHER: Final = "(other)"
#: Characters of a message that distinguish causes.
MAX_PATTERN: Final = 500

#: Members (task names, workers) counted in one group.
_MAX_MEMBERS: Final = 50

_TUPLE_KEY: Final = re.compile(r"""\(\s*["'](.+?)["']\s*,""")
_TOKEN: Final = re.compile(
    r"-(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{16,}|\d+)"
    r"(?:-\d+)*$"
)
#: Parts in which messages of one cause differ: addresses, tokens, numbers.
_VARIABLE: Final = re.compile(
    r"0x[0-9a-fA-F]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|[0-9a-fA-F]{16,}|\d+(?:[.,:]\d+)*"
)


def name_of_key(key: str) -> str:
    """Return the part of a Dask key that names the task: ``inc`` of ``inc-3f0a…``.

    Examples
    --------
    >>> name_of_key("read-csv-5b2fe4f8e3d1a6c09f1b2c3d4e5f6a7b")
    'read-csv'
    >>> name_of_key("('sum-aggregate-0f1e2d3c4b5a69788796a5b4c3d2e1f0', 3, 0)")
    'sum-aggregate'
    """
    match = _TUPLE_KEY.match(key)
    text = match[1] if match else key
    return _TOKEN.sub("", text) or text


def failure_pattern(failure_class: str, message: object) -> tuple[str, str]:
    """Return the class and the message with numbers and ids replaced by ``#``.

    Failures of one cause have the same pattern.
    """
    text = message if isinstance(message, str) else ""
    return failure_class, _VARIABLE.sub("#", text[:MAX_PATTERN])


def is_address(worker: Any) -> TypeGuard[str]:
    """Return whether a value is a worker's address; older records have the task's key there."""
    return isinstance(worker, str) and "://" in worker


class Members(Counter[str]):
    """How often each member of a group was seen; members beyond a limit count as `OTHER`."""

    def add(self, member: str) -> None:
        """Count a member."""
        if member not in self and len(self) >= _MAX_MEMBERS:
            member = OTHER
        self[member] += 1

    def document(self) -> dict[str, int]:
        """Return the counts, the largest first."""
        return dict(self.most_common())
