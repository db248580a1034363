"""Texts of foreign objects, made safe to record and bounded."""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

#: Characters kept of one text that a peer sends; a task whose key is longer is not recorded.
MAX_TEXT: Final = 32_768
#: Class, message, traceback and module of the class of an exception.
ErrorTexts: TypeAlias = tuple[str, str, str, str]
#: Characters kept of one text by default.
_MAX_PRINTED: Final = 100_000


def printable(value: object, *, limit: int = _MAX_PRINTED) -> str:
    """``str(value)`` even if ``__str__`` raises, at most about `limit` characters."""
    try:
        text = str(value)
    except (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError):
        raise
    except BaseException:
        text = f"<unprintable {type(value).__qualname__} object>"
    # Lone surrogates cannot be encoded: with one, the whole record would be lost.
    return shortened(text, limit).encode("utf-8", "backslashreplace").decode("utf-8")


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """The beginning and the end of a text of more than about `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}… [{len(text) - 2 * half} characters left out] …{text[-half:]}"


def module_of(kind: type) -> str:
    """Module of an exception's class; empty for what is built in."""
    module: object = getattr(kind, "__module__", "")
    return module if isinstance(module, str) and module != "builtins" else ""


def qualified(module: str, name: str) -> str:
    """Name of a class with its module, as OpenTelemetry writes it."""
    return f"{module}.{name}" if module else name


def split_repr(text: str) -> tuple[str, str]:
    """``ValueError('bad input')`` → class and message, if only the ``repr`` is left."""
    name, bracket, rest = text.partition("(")
    if bracket and name.replace(".", "").replace("_", "").isalnum():
        return name, rest.removesuffix(")").strip("'\"")
    return "Exception", text
