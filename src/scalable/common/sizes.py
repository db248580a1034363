"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {
    "": 1,
    "b": 1,
    **{unit: 1000**power for power, unit in enumerate(("k", "m", "g", "t", "p"), start=1)},
    **{f"{unit}b": 1000**power for power, unit in enumerate(("k", "m", "g", "t", "p"), start=1)},
    **{f"{unit}i": 1024**power for power, unit in enumerate(("k", "m", "g", "t", "p"), start=1)},
    **{f"{unit}ib": 1024**power for power, unit in enumerate(("k", "m", "g", "t", "p"), start=1)},
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")
_SMALLEST: Final = 2**20


def memory_bytes(text: str) -> int:
    """Bytes of a size such as ``1G`` (10⁹), ``512MiB`` (2²⁰) or ``4GB``.

    Raises
    ------
    ValueError
        The text is no size.
    """
    match = _SIZE.fullmatch(text)
    unit = match[2].lower() if match else None
    if match is None or unit not in _UNITS:
        raise ValueError(f"must be a size such as 1G, 512MiB or 4GB, not {text!r}")
    size = int(float(match[1]) * _UNITS[unit])
    if size < _SMALLEST:
        raise ValueError(f"{text} is less than 1 MiB: a unit such as G is missing")
    return size
