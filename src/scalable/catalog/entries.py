"""What the catalog knows of one thing that was put there, and how it is written."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from scalable.common.digests import TreeItem, is_digest, tree_digest

_LAYOUT: Final = 1
_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
#: Bytes read of a version; of a list of files in a directory.
MAX_VERSION: Final = 64 * 1024
MAX_TREE: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One version of a name in the catalog.

    Attributes
    ----------
    name, version : str
        Its name, and the version: a time and random digits, in order of time.
    digest : str
        ``sha256:<hex>`` of the content; of a directory, of its paths and the digests of its files.
    size_bytes : int
        Bytes of all of it.
    files : int or None
        Number of files of a directory; None for a file.
    kind : str or None
        What it is, such as ``result``.
    created_at : str
        When it was put there.
    source : str or None
        Where it came from: a path on the host that put it there, or a URL.
    run_id, trace_id, span_id, task_id, task_name : str or None
        The run, and the attempt, that put it there.
    """

    name: str
    version: str
    digest: str
    size_bytes: int
    files: int | None = None
    kind: str | None = None
    created_at: str = ""
    source: str | None = None
    run_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    task_id: str | None = None
    task_name: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.files is not None

    def fields(self) -> dict[str, Any]:
        """Return what is known of it as plain values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def text(self) -> bytes:
        """Return it as it is kept."""
        return json.dumps({"layout": _LAYOUT, **self.fields()}, ensure_ascii=True).encode()


def read_entry(text: bytes) -> CatalogEntry:
    """Return the entry that a text was made of; raises ValueError if it is none."""
    try:
        fields: dict[str, Any] = json.loads(text)
        known = {name: fields.get(name) for name in CatalogEntry.__dataclass_fields__}
        entry = CatalogEntry(**known)  # pyright: ignore[reportArgumentType]
        if not is_digest(entry.digest) or not isinstance(entry.name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("no digest")
        return CatalogEntry(**{**known, "size_bytes": int(entry.size_bytes)})  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is not an entry of a catalog: {error}") from None


def whole(name: str, entries: tuple[CatalogEntry, ...], digest: str) -> CatalogEntry:
    """Return an entry that stands for all names below one, as a directory."""
    size = sum(entry.size_bytes for entry in entries)
    return CatalogEntry(name, "", digest, size, sum(entry.files or 1 for entry in entries))


def new_version(latest: str | None) -> tuple[str, str]:
    """Return a new version, and its time, that sorts after the latest one known.

    No clock is trusted: on another host it may be behind.
    """
    now = datetime.now(UTC)
    if latest is not None and latest.rpartition("-")[0] >= now.strftime(_TIME):
        before = datetime.strptime(latest.rpartition("-")[0], _TIME).replace(tzinfo=UTC)
        now = before + timedelta(microseconds=1)
    return f"{now.strftime(_TIME)}-{secrets.token_hex(4)}", now.isoformat().replace("+00:00", "Z")


def tree_text(items: list[TreeItem]) -> bytes:
    """Return the files of a directory as they are kept."""
    files = [[item.path, item.digest, item.link, item.size] for item in items]
    return json.dumps({"layout": _LAYOUT, "files": files}, ensure_ascii=True).encode()


def read_tree(text: bytes) -> list[TreeItem]:
    """Return the files of a directory; raises ValueError if the text is not what it should be.

    No path leads out of the directory, and none leads through a link.
    """
    try:
        items = [TreeItem(*item) for item in json.loads(text)["files"]]
        links = {item.path for item in items if item.link is not None}
        for item in items:
            parts = item.path.split("/")
            above = {"/".join(parts[:length]) for length in range(1, len(parts))}
            if any(part in ("", ".", "..") for part in parts) or above & links:
                raise ValueError(f"{item.path!r} leads out of the directory")
            if item.link is None and not is_digest(item.digest):
                raise ValueError(f"{item.path!r} has no digest")
            int(item.size)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ValueError(f"it is not a list of files: {error}") from None
    return items


def digest_of_tree(text: bytes) -> str:
    """Return the digest of a directory by its list of files."""
    return tree_digest(read_tree(text))
