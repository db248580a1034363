"""Of which attempts the printed output is kept."""

from __future__ import annotations

from typing import Final, Literal

TaskOutput = Literal["off", "failed", "all"]

#: From the least on.
LEVELS: Final[tuple[TaskOutput, ...]] = ("off", "failed", "all")
