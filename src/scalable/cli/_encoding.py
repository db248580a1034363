"""Output in terminals whose encoding lacks some characters."""

from __future__ import annotations

import codecs
import os
from typing import Any, Final

#: What replaces the characters of our own texts if the encoding lacks them.
_PLAIN: Final = {
    **{"…": "...", "→": "->", "×": "x", "µ": "u", "•": "*", "–": "-", "—": "-", "≥": ">="},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "⁰": "0", "²": "2", "⁹": "9"},
    **dict.fromkeys("─━═╌", "-"),
    **dict.fromkeys("│┃║╎", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯", "+"),
}
#: Another name for ASCII: click writes UTF-8 to a stream whose encoding is called ASCII.
_ASCII: Final = "scalable_ascii"


def replace_missing_characters(stream: Any) -> None:
    """Make a stream replace the characters that its encoding lacks, instead of failing."""
    reconfigure: Any = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return
    codecs.register(_find_ascii)
    codecs.register_error("scalable_plain", _plain)
    encoding = codecs.lookup(stream.encoding or "utf-8").name
    if encoding == "ascii" or (encoding == "utf-8" and _is_c_locale()):
        reconfigure(encoding=_ASCII, errors="scalable_plain")
    else:
        reconfigure(errors="scalable_plain")


def _is_c_locale() -> bool:
    """Whether the locale is explicitly ASCII; Python uses UTF-8 in it."""
    if os.environ.get("PYTHONUTF8") == "1" or os.environ.get("PYTHONIOENCODING"):
        return False
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return next((name for name in names if name), "") in ("C", "POSIX")


def _find_ascii(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    found = codecs.lookup("ascii")
    return codecs.CodecInfo(
        found.encode,
        found.decode,
        found.streamreader,
        found.streamwriter,
        found.incrementalencoder,
        found.incrementaldecoder,
        name=_ASCII,
    )


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end
