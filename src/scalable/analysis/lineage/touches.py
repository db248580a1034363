"""What the attempts of all runs have put and got."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from scalable.analysis.lineage.model import FileNode, TaskKey, Touch
from scalable_runs.reader import RunReader
from scalable_runs.schema import ARTIFACTS, Record

#: Records of artifacts that are kept, of all runs together.
MAX_TOUCHES: Final = 500_000


class Touches:
    """Artifacts of runs, by digest and by task; filled once, by one thread."""

    def __init__(self) -> None:
        self.readers: dict[str, RunReader] = {}
        #: By digest.
        self.put: dict[str, list[Touch]] = {}
        self.got: dict[str, list[Touch]] = {}
        self.by_task: dict[TaskKey, list[Touch]] = {}
        self.left_out = 0
        self._count = 0

    def add(self, touch: Touch) -> None:
        """Add one; too many are counted."""
        if self._count >= MAX_TOUCHES:
            self.left_out += 1
            return
        self._count += 1
        if touch.digest:
            of_stage = self.got if touch.stage == "get" else self.put
            of_stage.setdefault(touch.digest, []).append(touch)
        self.by_task.setdefault(touch.task, []).append(touch)

    def all(self) -> Iterable[Touch]:
        """Yield all of them."""
        for touches in self.by_task.values():
            yield from touches

    @property
    def digests(self) -> set[str]:
        """All digests."""
        return {*self.put, *self.got}

    def file(self, digest: str) -> FileNode:
        """Return what is known of a content."""
        node = FileNode(digest)
        node.put = sorted(self.put.get(digest, ()), key=_time)
        node.got = sorted(self.got.get(digest, ()), key=_time)
        touches = (*node.put, *node.got)
        node.names = list(dict.fromkeys(touch.name for touch in touches))
        sizes = (touch.size_bytes for touch in touches if touch.size_bytes is not None)
        node.size_bytes = next(sizes, None)
        return node

    def producer(self, of: Touch) -> Touch | None:
        """Return who put what was got: in the run that the catalog names, else the last before.

        The same content may have been put under another name, too: that of the name counts.
        """
        put = self.put.get(of.digest, [])
        # A clock is not that of another run: without a name the order is that of times.
        named = [touch for touch in put if touch.task.run_id == of.put_by]
        put = named or [touch for touch in put if touch.at <= of.at]
        put = [touch for touch in put if touch.name == of.name] or put
        return max(put, key=_time, default=None)


def _time(touch: Touch) -> str:
    return touch.at


def read_touches(
    readers: Iterable[RunReader], progress: Callable[[int, int], None] | None = None
) -> Touches:
    """Read the artifacts of runs; `progress` gets bytes read and bytes in all."""
    found = Touches()
    sizes = {reader.run_id: (reader, reader.size(ARTIFACTS)) for reader in readers}
    total = sum(size for _, size in sizes.values())
    done = 0
    for run_id, (reader, size) in sizes.items():
        found.readers[run_id] = reader
        if size:
            for record in reader.records(ARTIFACTS):
                # All names below one: each of them has a record of its own.
                if not record.get("catalog") or record.get("version"):
                    found.add(_touch(run_id, record))
        done += size
        if progress is not None:
            progress(done, total)
    return found


def _touch(run_id: str, record: Record) -> Touch:
    size = record.get("size_bytes")
    return Touch(
        TaskKey(run_id, str(record.get("task_id") or "")),
        "get" if record.get("stage") == "get" else "put",
        str(record.get("digest") or ""),
        str(record.get("artifact_name") or "-"),
        str(record.get("timestamp") or ""),
        str(record.get("span_id") or ""),
        size if isinstance(size, int) else None,
        str(record.get("location") or ""),
        str(record.get("put_by") or ""),
    )
