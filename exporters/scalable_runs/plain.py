"""Foreign values as JSON, ISO 8601 times, and ids.

Times in a run directory are UTC, with microseconds and ``Z``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, cast

import orjson

_MAX_DEPTH: Final = 32
_SECOND: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def iso(seconds: float) -> str:
    """Return a time in seconds since the epoch as ISO 8601."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def iso_time(nanoseconds: int) -> str:
    """Return a time in nanoseconds since the epoch as ISO 8601, cut to microseconds."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return _whole_second(seconds) + "%06dZ" % (rest // 1000)  # noqa: UP031 (half the time)


@lru_cache(maxsize=1024)
def _whole_second(seconds: int) -> str:
    """Cached, because most records share their second with the previous record."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}."


def parse_time(value: object) -> datetime | None:
    """Return an ISO 8601 time as an aware datetime (UTC by default), else None."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_seconds(value: object) -> float | None:
    """Return an ISO 8601 time in seconds since the epoch, else None."""
    time = parse_time(value)
    return None if time is None else time.timestamp()


def seconds_of(timestamp: str) -> float:
    """Return an ISO 8601 time in seconds since the epoch; raises ValueError for other texts."""
    return datetime.fromisoformat(timestamp).timestamp()


def parse_nanoseconds(value: object) -> int:
    """Return an ISO 8601 time in nanoseconds since the epoch, in whole microseconds.

    0 for other values, and for times that OpenTelemetry cannot express.
    """
    time = parse_time(value)
    nanoseconds = 0 if time is None else (time - _EPOCH) // _MICROSECOND * 1000
    return nanoseconds if 0 <= nanoseconds < 2**63 else 0


def dumps(value: Any, options: int = 0) -> bytes:
    """Encode any value as JSON.

    Parameters
    ----------
    value
        Values that JSON cannot express are replaced: see :func:`plain`.
    options : int
        orjson's.

    Raises
    ------
    Exception
        The methods of a foreign class failed.
    """
    try:
        return orjson.dumps(value, plain, options)
    except Exception:
        # orjson refuses lone surrogates, integers beyond 64 bits and endless nesting.
        return orjson.dumps(_sanitised(value, 0), plain, options)


def plain(value: Any) -> Any:
    """Return a JSON value for one that orjson does not know; calls no method of a foreign class."""
    if isinstance(value, Mapping):
        return {_key(key): item for key, item in _items(cast("Mapping[Any, Any]", value))}
    if isinstance(value, (set, frozenset)):
        return list(cast("set[Any]", value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, os.PathLike):
        return _without_surrogates(os.fspath(cast("os.PathLike[str]", value)))
    return f"<{type(value).__name__}>"


def _sanitised(value: Any, depth: int) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return value
    if isinstance(value, str):
        return _without_surrogates(value)
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return value
        return str(value) if value.bit_length() <= 4096 else f"<int of {value.bit_length()} bits>"
    if depth >= _MAX_DEPTH:
        return "<nested too deeply>"
    if isinstance(value, Mapping):
        return {
            _key(key): _sanitised(item, depth + 1)
            for key, item in _items(cast("Mapping[Any, Any]", value))
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_sanitised(item, depth + 1) for item in cast("Iterator[Any]", value)]
    found = plain(value)
    return _sanitised(found, depth + 1) if isinstance(found, str) else found


def _items(value: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return dict.items(value) if isinstance(value, dict) else value.items()


def _key(key: Any) -> str:
    if isinstance(key, str):
        return _without_surrogates(key)
    if key is None or isinstance(key, (bool, int, float)):
        return str(key)
    return f"<{type(key).__name__}>"


def _without_surrogates(text: str) -> str:
    return str.encode(text, "utf-8", "backslashreplace").decode()


def cut(text: str, limit: int) -> str:
    """Cut a text in its middle: beginning and end are the most useful parts."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n  … {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def hex_id(value: object, digits: int) -> int:
    """Return an id written as so many hexadecimal digits; 0, which is not an id, otherwise."""
    if isinstance(value, str) and len(value) == digits and _HEX.issuperset(value):
        return int(value, 16)
    return 0


_HEX: Final = frozenset("0123456789abcdefABCDEF")
