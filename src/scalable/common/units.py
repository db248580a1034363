"""Sizes with units, such as ``512MiB``."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgtp])(i)?)?b?", re.IGNORECASE)
_SMALLEST: Final = 2**20


def memory_bytes(text: str) -> int:
    """Bytes of a size such as ``1G`` (10⁹), ``512MiB`` (512 × 2²⁰) or ``4GB``.

    Raises
    ------
    ValueError
        The text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"must be a size such as 1G, 512MiB or 4GB, not {text!r}")
    number, prefix, binary = match.groups()
    power = "kmgtp".index(prefix.lower()) + 1 if prefix else 0
    size = int(float(number) * (1024 if binary else 1000) ** power)
    if size < _SMALLEST:
        raise ValueError(f"{text} is less than 1 MiB: a unit such as G is missing")
    return size


#: As in prices of clouds: 8760 / 12.
HOURS_PER_MONTH: Final = 730
