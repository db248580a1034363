"""What to write instead of an unknown word."""

from __future__ import annotations

from collections.abc import Iterable


def suggestion(word: str, known: Iterable[str], what: str = "allowed") -> str:
    """Return ``did you mean 'x'?`` where a known word is close, else all known words."""
    from difflib import get_close_matches

    names = list(known)
    near = get_close_matches(word, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{what}: {', '.join(names)}" if names else f"there are no {what}"
