"""Makes recorded text safe to print: a run is untrusted input."""

from __future__ import annotations

import re
from typing import Final

#: Terminal escape sequences as wholes: CSI, OSC and the two-character ones.
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]",
    re.DOTALL,
)
#: What moves a cursor, hides or reorders text: controls, bidi and zero-width characters, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e01ef]"
)
_BLANKS: Final = re.compile(r"[\t\n\x0b\x0c\r\x85\u2028\u2029]+ *")


def terminal_line(text: object) -> str:
    """Return text as one line that a terminal shows and does not act on."""
    return _UNSAFE.sub("", _BLANKS.sub(" ", _ESCAPES.sub("", str(text)))).strip()


def terminal_lines(text: str) -> list[str]:
    """Return the lines of a text, each safe to print, indentation kept."""
    lines = _ESCAPES.sub("", text).expandtabs(4).splitlines()
    return [_UNSAFE.sub("", line).rstrip() for line in lines]


def terminal_text(text: str, *, styled: bool = False) -> str:
    """Return a text of many lines without what a terminal acts on, newlines and tabs apart.

    Parameters
    ----------
    text
        What is to be printed.
    styled
        Keep the codes of colours and weights that :func:`scalable.analysis.layout.paint` writes.
    """
    keep = _STYLE if styled else _NOTHING
    return "\n".join(
        "".join(
            part if place % 2 else _UNSAFE_IN_LINE.sub("", _ESCAPES.sub("", part))
            for place, part in enumerate(keep.split(line))
        )
        for line in text.split("\n")
    )


_STYLE: Final = re.compile(r"(\x1b\[(?:\d{1,2}(?:;\d{1,2})*)?m)")
_NOTHING: Final = re.compile(r"((?!))")
_UNSAFE_IN_LINE: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0a-\x1f"))


def escape_json(text: str) -> str:
    r"""Write the unsafe characters within JSON as ``\uXXXX``; the document stays the same."""
    return _UNSAFE_IN_JSON.sub(_escape, text)


# Newlines and blanks between tokens stay; within strings they are escaped already.
_UNSAFE_IN_JSON: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", ""))


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
