"""Names in the catalog: which are allowed, and how they are spelled in file names and keys."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from scalable.catalog.errors import CatalogError, redactor

#: Bytes of a name.
_MAX_NAME: Final = 1_000
#: Characters of a spelled name: file systems allow 255.
_MAX_SPELLED: Final = 200
_PLAIN: Final = re.compile(rb"[A-Za-z0-9._-]")
_NEAR: Final = 3


def check_name(name: str) -> str:
    """Return a name if it is allowed.

    A name is a relative path with ``/``: no part is empty, ``.`` or ``..``. It may have any other
    characters that are printable, but no secret.

    Raises
    ------
    CatalogError
        It is not allowed.
    """
    if not name:
        raise CatalogError("a name in the catalog cannot be empty")
    shown = repr(name[:80])
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise CatalogError(
            f"{shown} is not a name in the catalog: give a relative path without '.', '..' and "
            "empty parts"
        )
    if not name.isprintable():
        raise CatalogError(f"{shown} is not a name in the catalog: it has unprintable characters")
    if len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME:
        raise CatalogError(f"{shown}… is too long for a name: at most {_MAX_NAME:,} bytes")
    if name.startswith("sha256:"):
        raise CatalogError(f"{shown} is not a name in the catalog: it begins like a digest")
    if redactor()(name) != name:
        raise CatalogError(
            f"{shown} seems to have a secret in it, and names are shown: give another by name="
        )
    return name


def spelled(name: str) -> str:
    """Return a name as one part of a path, the same for no other name.

    Bytes other than ASCII letters, digits, ``.``, ``_`` and ``-`` become ``=`` and two hexadecimal
    digits. Of a long name the beginning is kept, with a digest of all of it.
    """
    raw = name.encode()
    text = "".join(
        chr(byte) if _PLAIN.match(raw, at) else f"={byte:02X}" for at, byte in enumerate(raw)
    )
    if text.startswith("."):
        text = f"=2E{text[1:]}"
    if len(text) <= _MAX_SPELLED:
        return text
    return f"{text[:100]}==={hashlib.sha256(raw).hexdigest()}"


def unspelled(text: str) -> str:
    """Return the name that :func:`spelled` has made a text of, or an equally good one to show."""
    return re.sub(
        rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), text.encode()
    ).decode("utf-8", "replace")


def name_of_path(path: str | os.PathLike[str]) -> str:
    """Return the default name of a file: its path from the working directory, else its last part.

    The last part is used for what is not below the working directory.
    """
    text = os.fspath(path)
    if "://" in text:
        return text.split("?", 1)[0].rstrip("/").rpartition("/")[2]
    absolute = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - links are kept
    try:
        return absolute.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return absolute.name


def glob_base(pattern: str) -> str:
    """Return the directory that a pattern begins with: what comes before its first wildcard."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if glob.has_magic(part):
            break
        parts.append(part)
    return "/".join(parts)


def near(name: str, known: Iterable[str]) -> str:
    """Return a hint that names what is close to a name that is not there."""
    names = sorted(set(known))
    if not names:
        return "the catalog is empty"
    last = name.rpartition("/")[2]
    close = get_close_matches(name, names, n=_NEAR)
    close += [one for one in names if one.rpartition("/")[2] == last and one not in close]
    if close:
        return f"did you mean {' or '.join(repr(one) for one in close[:_NEAR])}?"
    shown = ", ".join(names[:_NEAR])
    more = f" and {len(names) - _NEAR:,} more" if len(names) > _NEAR else ""
    return f"there are: {shown}{more}"


def last_part(name: str) -> str:
    """Return the last part of a name, as the name of a file: at most 255 bytes."""
    part = name.rpartition("/")[2]
    raw = part.encode("utf-8", "surrogateescape")
    if len(raw) <= 255:
        return part
    suffix = Path(part).suffix[-20:]
    return f"{hashlib.sha256(raw).hexdigest()}{suffix}"
