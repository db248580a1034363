"""What the families of patterns share: each finds the spans of secrets in a text.

A family gets the text, and the same text in lower case and of the same length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

#: Replaces a secret.
REDACTED: Final = "[redacted]"
#: Places in a text that are examined closely. A text that has more is redacted whole.
MAX_CANDIDATES: Final = 5_000
#: Characters of a value by which it is judged.
LOOK_AHEAD: Final = 128

#: Start and end of a secret.
Span: TypeAlias = tuple[int, int]
Family: TypeAlias = Callable[[str, str], list[Span]]


class TooManyCandidatesError(Exception):
    """A text has more than :data:`MAX_CANDIDATES` places to examine."""


def words(text: str) -> frozenset[str]:
    """Return the words of a table."""
    return frozenset(text.split())


#: A quotation mark as written in a text, in the repr of a text, in JSON within JSON, in HTML or
#: in a URL.
QUOTE: Final = r"(?:\\{0,15}['\"`]|%22|%27|&quot;|&#3[49];|&apos;|\\{1,8}u002[27])"
IDENTIFIER: Final = re.compile(r"[A-Za-z_][\w.]*")
#: Placeholders of values in templates, documentation, earlier redactions and source code.
_PLACEHOLDER: Final = re.compile(
    r"\[redacted.*|\[.*\]|[*.xX•#_?-]+|<.*|\{.*|\$[({A-Za-z_].*|%[(s{].*|%[A-Za-z_]+%|%[sdr]|none"
    r"|null|nil|true|false|yes|no|on|off|str|string|bytes|int|any|object|bool|optional|required"
    r"|undefined|unset|empty|not|self|cls|redacted|hidden|masked|filtered|changeme|your[-_ ]?\w*"
    r"|my[-_ ]?(?:secret|password|token|key)|secret|password|passwd|passphrase|pwd|pass|token"
    r"|username|user|value|default|example|invalid|incorrect|wrong|missing|expired|basic|bearer"
    r"|unknown|external|anonymous",
    re.IGNORECASE | re.DOTALL,
)
_TEMPLATE: Final = re.compile(r"%\(|%s|\{[\w.!:\[\]()'\" ]*\}|\$\{|\$\(|\{\{")
#: Words of sentences about secrets, at the place of a secret.
PROSE: Final = words(
    """
    about after again already also and are argument arguments because been before both but
    callback can cannot check code contains could data describes does during each entry etc
    expected field file files flag for found from function given handling has have here hook how
    if incorrect instead into invalid iterator just length like list longer made manager match may
    method mismatch missing must name named names needed never new not number object of old only
    option options or other parameter parsing prompt protected provided rejected returns same see
    set should size some that the their then there this to type types unless used using uses
    validation valid value values was what when where which while will with without would wrong
    yet you your
    """
)
_DIGIT: Final = re.compile(r"[0-9]")


def is_placeholder(value: str) -> bool:
    """Return whether a value only takes the place of one."""
    return _PLACEHOLDER.fullmatch(value) is not None


def is_template(value: str) -> bool:
    """Return whether a value is made of others when the program runs."""
    return _TEMPLATE.search(value) is not None


def has_digit(value: str) -> bool:
    """Return whether there is an ASCII digit in a value."""
    return _DIGIT.search(value) is not None


def contains_any(text: str, hints: tuple[str, ...]) -> bool:
    """Return whether one of the hints is in a text."""
    # A loop takes half the time of `any` with a generator, and every line passes here.
    for hint in hints:  # noqa: SIM110
        if hint in text:
            return True
    return False


def lowered(text: str) -> str:
    """Return a text in lower case, of the same length."""
    lower = text.lower()
    # `İ` is the one character that becomes longer.
    return lower if len(lower) == len(text) else text.replace("İ", "I").lower()


def match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return the end of a match at `start`, or `start` if there is none."""
    match = pattern.match(text, start)
    return start if match is None else match.end()


def closing_quote(text: str, start: int, mark: str) -> int | None:
    """Return the end of a quoted text; None if it is on another line or too far away."""
    limit = min(len(text), start + 1024)
    if not mark.endswith(("'", '"', "`")):
        end = text.find(mark, start, limit)
        return None if end < 0 or "\n" in text[start:end] else end
    depth, sign = len(mark) - 1, mark[-1]
    at = start
    while (at := text.find(sign, at, limit)) >= 0:
        slashes = at
        while slashes > start and text[slashes - 1] == "\\":
            slashes -= 1
        count = at - slashes
        if count <= depth or (depth == 0 and count % 2 == 0):
            if "\n" in text[start:slashes]:
                return None
            return slashes if count <= depth else at
        at += 1
    return None


def spans_of_matches(
    pattern: re.Pattern[str], span_of: Callable[[re.Match[str]], Span | None], text: str
) -> list[Span]:
    """Return the secrets in the matches; the search continues after each of them."""
    spans: list[Span] = []
    at = count = 0
    while (match := pattern.search(text, at)) is not None:
        count += 1
        if count > MAX_CANDIDATES:
            raise TooManyCandidatesError
        span = span_of(match)
        at = max(match.start() + 1, match.end() if span is None else span[1])
        if span is not None:
            spans.append(span)
    return spans


def without(text: str, spans: Iterable[Span]) -> str:
    """Return a text with each span replaced; the same object if there is nothing to replace."""
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start >= done and start < end:
            if text[start:end] == REDACTED:
                continue
            parts += (text[done:start], REDACTED)
            done = end
        elif end > done > start:
            done = end
    return "".join((*parts, text[done:])) if parts else text
