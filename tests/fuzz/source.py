"""Choices made by bytes, which a fuzzer can change one by one."""

from __future__ import annotations

import random


class BytesRandom(random.Random):
    """Takes its bits from `data`, and zeros when there are none left."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._place = 0

    def _take(self, count: int) -> int:
        taken = self._data[self._place : self._place + count]
        self._place += count
        return int.from_bytes(taken.ljust(count, b"\0"), "little")

    def random(self) -> float:
        return self._take(4) / 2**32

    def getrandbits(self, k: int, /) -> int:
        return self._take((k + 7) // 8) & ((1 << k) - 1)
