"""Passwords in URLs and in addresses of databases."""

from __future__ import annotations

import re
from typing import Final

from scalable_runs.redact.text import (
    MAX_CANDIDATES,
    Span,
    TooManyCandidatesError,
    has_digit,
    is_placeholder,
)

_SCHEME_END: Final = re.compile(r"(?<=[a-z0-9+])(?::(?:\\?/){2}|%3a%2f%2f)")
_SCHEME: Final = re.compile(r"[A-Za-z0-9+.-]{0,30}(?::(?:\\?/){2}|%3[Aa]%2[Ff]%2[Ff])$")
_URL_REST: Final = re.compile(r"[^\s\"<>`]{3,1024}")
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[\w.${}-]+)?(?::\d+|%3[Aa]\d+)?(?=$|[/?#,)\]};:'\\&]|%2[Ff])"
)
_ORACLE: Final = re.compile(
    r"(?:jdbc:oracle:(?:thin|oci8?):|(?<!\w)(?:sqlplus|sqlldr|expdp|impdp)[ \t](?:-\w+[ \t]){0,4})"
    r"['\"]?[\w$#.-]{1,64}/(?P<value>[^\s@'\"]{1,256})@",
    re.IGNORECASE,
)
_GO_DSN: Final = re.compile(
    r"(?<![\w/])[\w.-]{1,64}(?<!\w-):(?P<value>[^\s@/:'\"]{1,256})@(?:tcp|unix)\("
)


def urls(text: str, lowered: str) -> list[Span]:
    """Find passwords in URLs, in Oracle's and in Go's addresses of databases."""
    if ("@" not in text or "/" not in text) and "%40" not in text:
        return []
    spans: list[Span] = []
    starts = [match.end() for match in _SCHEME_END.finditer(lowered)]
    for number, start in enumerate(starts):
        if number > MAX_CANDIDATES:
            raise TooManyCandidatesError
        rest = _URL_REST.match(text, start)
        if rest is None:
            continue
        end = rest.end()
        if number + 1 < len(starts) and starts[number + 1] < end:
            end = start + len(_SCHEME.sub("", text[start : starts[number + 1]]))
        span = _userinfo(text, start, end)
        if span is not None:
            spans.append(span)
    for pattern in (_ORACLE, _GO_DSN):
        spans += [match.span("value") for match in pattern.finditer(text)]
    return spans


def _userinfo(text: str, start: int, end: int) -> Span | None:
    """Return where the password is in what follows `scheme://`."""
    rest = text[start:end]
    encoded = "@" not in rest and "%40" in rest
    at_sign = "%40" if encoded else "@"
    colon = "%3a" if encoded and "%3a" in rest.lower() else ":"
    authority = re.split(r"[/?#]|%2[Ff]", rest, maxsplit=1)[0]
    at = authority.rfind(at_sign)
    first = rest.lower().find(colon)
    if at < 0:
        # The password may have a slash in it, unless there is a port.
        if not 0 <= first < len(authority) or authority[first + 1 :].isdigit() or "'" in authority:
            return None
        at = rest.rfind(at_sign)
        if at < first or _HOST.match(rest, at + len(at_sign)) is None:
            return None
    if at <= 0:
        return None
    if 0 <= first < at:
        begin = first + len(colon)
        is_example = _is_documentation(rest[begin:at], rest[at + len(at_sign) :])
        return None if is_example else (start + begin, start + at)
    value = rest[:at]
    if len(value) < 16 or not has_digit(value) or is_placeholder(value):
        return None
    return start, start + at


def _is_documentation(password: str, host: str) -> bool:
    if not password or is_placeholder(password):
        return True
    return password.isalpha() and re.match(r"example\.(?:com|org|net)\b", host) is not None
