"""``manifest.lock``: a digest of what a manifest says, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no white space, as UTF-8: equal content gives equal bytes."""
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8", "surrogatepass")


def digest(content: Mapping[str, Any]) -> str:
    """``sha256:<hex>`` of the canonical form.

    Examples
    --------
    >>> digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
    True
    """
    return f"sha256:{hashlib.sha256(canonical(content)).hexdigest()}"
