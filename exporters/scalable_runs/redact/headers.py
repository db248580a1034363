"""Credentials in headers: authorization, cookies, keys of services."""

from __future__ import annotations

import re
from typing import Final

from scalable_runs.redact.text import (
    IDENTIFIER,
    LOOK_AHEAD,
    QUOTE,
    Span,
    closing_quote,
    contains_any,
    has_digit,
    is_placeholder,
    match_end,
    spans_of_matches,
)

#: A text without one of these has no header in it.
_HINTS: Final = ("auth", "cookie", "x-", "bearer", "basic ", "-token", "-key")
_HEADER: Final = re.compile(
    r"(?P<name>(?<![a-z])(?:(?:proxy-)?authorization|(?:set-)?cookie2?"
    r"|x-(?:[a-z]{1,20}-){0,3}(?:key|token|secret|signature|auth|password)"
    r"|(?:ocp-apim-subscription|api|private)-(?:key|token)))"
    rf"{QUOTE}?\]?[ \t]{{0,4}}(?P<separator>(?::|=>|=(?!=))"
    rf"|,(?=[ \t]{{0,4}}b?{QUOTE}))[ \t]{{0,4}}(?:[bf]?(?P<quote>{QUOTE}))?",
    re.IGNORECASE,
)
_TO_LINE_END: Final = re.compile(r"[^\r\n]{0,4096}")
_UNQUOTED_LINE: Final = re.compile(r"(?:[^\r\n'\"\\]++|\\(?![nr'\"\\]))*+")
_WORD: Final = re.compile(r"(?:[^\s,;)}\]'\"\\]++|\\(?![nr'\"\\]))*+")
_AUTH_SCHEME: Final = re.compile(
    r"(?:basic|bearer|digest|token|negotiate|apikey|hmac|aws4-hmac-sha256|sharedkey(?:lite)?"
    r"|splunk|ntlm|key|jwt|snowflake|hawk|dpop|api-key|genie_?key|gitlab|ssws|vapid)[ \t]++(?=\S)",
    re.IGNORECASE,
)
_WHOLE_LINE_SCHEMES: Final = ("digest", "hmac", "aws4", "hawk", "vapid")
_BARE_SCHEME: Final = re.compile(
    r"(?<!\w)(?:bearer|basic|auth (?:plain|login|xoauth2))[ \t]{1,4}"
    r"(?P<value>[A-Za-z0-9._~+/-]{12,4096}+={0,2})",
    re.IGNORECASE,
)
_COOKIE: Final = re.compile(r"([^=;\s]{1,80})=([^;]*)")
_SESSION_COOKIE: Final = re.compile(r"(?:sess|sid|auth|token|csrf|jwt|login)", re.IGNORECASE)
_COOKIE_ATTRIBUTES: Final = frozenset(
    {"path", "domain", "expires", "max-age", "samesite", "version", "comment"}
)
_SPELT_WORDS: Final = re.compile(
    r"[A-Z]+(?:_[A-Z]+)+(?:_\d+)?|[A-Z][a-z]+(?:_[A-Z][a-z]+)+(?:_\d+)?"
)


def headers(text: str, lowered: str) -> list[Span]:
    """Find credentials in headers, and behind the name of a scheme of authentication."""
    if not contains_any(lowered, _HINTS):
        return []
    spans = spans_of_matches(_HEADER, _header_span, text)
    return spans + spans_of_matches(_BARE_SCHEME, _scheme_span, text)


def _header_span(match: re.Match[str]) -> Span | None:
    text, start, mark = match.string, match.end(), match["quote"]
    scheme = _AUTH_SCHEME.match(text, start)
    whole_line = scheme is not None and scheme.group().lower().startswith(_WHOLE_LINE_SCHEMES)
    is_cookie = "cookie" in match["name"].lower()
    if mark is not None:
        end = closing_quote(text, start, mark)
        if end is None:
            end = match_end(_TO_LINE_END, text, start)
    elif whole_line:
        end = match_end(_TO_LINE_END, text, start)
    elif is_cookie:
        # Within a quoted text the header ends with that.
        end = match_end(_UNQUOTED_LINE, text, start)
    else:
        # A sentence may go on behind the credentials.
        start = scheme.end() if scheme is not None else start
        word = _WORD.match(text, start, start + LOOK_AHEAD)
        end = word.end() if word is not None else start
    if is_cookie:
        is_code = mark is None and match["separator"] != ":"
        return (end, end) if is_code or not _is_cookie(text[start:end]) else (start, end)
    if scheme is not None and scheme.end() <= end:
        start = scheme.end()
        if whole_line:
            return start, end
    elif match["separator"] == ",":
        return None  # a list of names of headers
    if not _is_credential(text[start:end], quoted=mark is not None, scheme=scheme is not None):
        return None
    if mark is None and end == start + LOOK_AHEAD:
        end = match_end(_WORD, text, end)
    return start, end


def _is_credential(value: str, *, quoted: bool, scheme: bool) -> bool:
    if is_placeholder(value) or "%s" in value or value.startswith("{"):
        return False
    if quoted:
        if not value.strip() or (" " in value.strip() and not scheme):
            return False
    else:
        is_name = IDENTIFIER.fullmatch(value) is not None and not has_digit(value)
        if "(" in value or "[" in value or (is_name and not scheme):
            return False
    if scheme and value.isalpha() and value.islower():
        return False  # `Bearer mytoken`, `Basic realm`
    return len(value) >= (6 if scheme else 8)


def _is_cookie(value: str) -> bool:
    """Return whether one of the cookies may be a key; short and spelt words are not."""
    for name, content in _COOKIE.findall(value):
        if name.lower() in _COOKIE_ATTRIBUTES or name.startswith("$"):
            continue
        content = content.strip().strip("\\'\"")
        is_session = _SESSION_COOKIE.search(name) is not None
        if (
            len(content) >= (5 if is_session else 8)
            and has_digit(content)
            and not is_placeholder(content)
        ):
            if _SPELT_WORDS.fullmatch(content) is None:
                return True
        elif is_session and len(content) >= 16 and content.isalnum():
            return True
    return False


def _scheme_span(match: re.Match[str]) -> Span | None:
    value = match["value"]
    return match.span("value") if has_digit(value) or value.endswith("=") else None
