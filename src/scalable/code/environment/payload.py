"""How a description of software travels: as compressed JSON, bounded on both sides."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, cast

#: Bytes of a description at most, compressed and not.
MAX_PACKED: Final = 256 * 2**10
MAX_UNPACKED: Final = 4 * 2**20


def pack(software: Mapping[str, Any]) -> bytes:
    """Compress a description; the same one gives the same bytes. Empty if it is too large."""
    text = json.dumps(software, sort_keys=True, separators=(",", ":")).encode()
    packed = zlib.compress(text, 6) if len(text) <= MAX_UNPACKED else b""
    return packed if len(packed) <= MAX_PACKED else b""


def unpack(packed: Any) -> dict[str, Any] | None:
    """Return what was packed; None for what a peer sent that is no such thing."""
    if not isinstance(packed, bytes) or not packed:
        return None
    try:
        text = zlib.decompressobj().decompress(packed, MAX_UNPACKED)
        found: Any = json.loads(text)
    except (zlib.error, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
