"""What tasks printed, as log records and as a file for each attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from scalable import facts
from scalable.code.tracebacks import resolve_text
from scalable.facts.relay_items import BY_ELIMINATION, LEFT_OUT, LOGGED, RAW, LogItem, OutputItem
from scalable.telemetry import semconv
from scalable.telemetry.ledger.task import Task
from scalable_runs.redact import Redactor
from scalable_runs.stores.base import Store
from scalable_runs.task_logs import task_log

#: Characters of all output that is kept of a run, and attempts that have a file.
MAX_OUTPUT: Final = 64 * 2**20
MAX_FILES: Final = 500
#: What output is called in `telemetry.dropped` of run.json.
DROPPED: Final = "task_output"

_STREAMS: Final = {1: "stdout", 2: "stderr"}

#: A piece of output: time, stream, flags, text without secrets.
Piece = tuple[int, int, int, str]


class TaskOutputs:
    """Takes what workers relay of the output of tasks; called by the recorder's thread only.

    Parameters
    ----------
    store : Store
        Where files go.
    tasks : mapping
        The tasks that the scheduler knows, by key.
    redact : Redactor
        Passed every text before anything else sees it.
    keep : callable
        Takes a log record, and the encoded resource of its process.
    drop : callable
        Takes what was left out, and how much.
    """

    def __init__(
        self,
        store: Store,
        tasks: Mapping[str, Task],
        redact: Redactor,
        keep: Callable[[LogItem, bytes], None],
        drop: Callable[[str, int], None],
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._redact = redact
        self._keep = keep
        self._drop = drop
        self._left = MAX_OUTPUT
        self._files: set[str] = set()
        #: Number of attempts, by key and Dask's number, also of tasks that were forgotten since.
        self._numbers: dict[tuple[str, int], int] = {}

    def take(self, fact: facts.RelayBatch) -> None:
        """Keep what a process relays."""
        if fact.dropped:
            self._drop(DROPPED, fact.dropped)
        if fact.number:
            content: Any = orjson.loads(fact.payload)
            resource = orjson.dumps(content["resource"])
            for item in content["items"]:
                self._take_item(item, resource)

    def _take_item(self, item: OutputItem, resource: bytes) -> None:
        size = sum(len(text) for _, _, _, text in item["pieces"])
        key = item["task"]
        if self._left < size or key is None:
            self._drop(DROPPED, 1)
            return
        self._left -= size
        task = self._tasks.get(key)
        number = self._number(task, key, item["run_id"])
        # Tracebacks that were printed name the files of code that was sent by value.
        pieces = redacted(
            [
                (at, to, flags, resolve_text(text, add_lines=False))
                for at, to, flags, text in item["pieces"]
            ],
            self._redact,
        )
        self._write(task_log(self._redact.identity(key), number), pieces)
        for attributes, at, text in _records(pieces):
            if task is not None:
                attributes[semconv.TASK_NAME] = task.name
            if number is not None:
                attributes[semconv.TASK_ATTEMPT] = number
            record: LogItem = {
                "time": at,
                "severity": None,
                "severity_text": None,
                "event": semconv.EVENT_OUTPUT,
                "body": text,
                "attributes": attributes,
                "scope": ("scalable.output", None, None),
                "trace": item["trace"],
                "span": item["span"],
                "flags": item["flags"],
                "task": key,
                "suppressed": item.get("suppressed", False),
            }
            self._keep(record, resource)

    def _number(self, task: Task | None, key: str, run_id: int) -> int | None:
        """Number of an attempt; None if its task was forgotten."""
        number = self._numbers.get((key, run_id))
        if number is None and task is not None:
            # Word of its start may come later than its first output.
            number = task.attempt if task.run_id == run_id else task.attempt + 1
            if len(self._numbers) >= MAX_FILES:
                del self._numbers[next(iter(self._numbers))]
            self._numbers[key, run_id] = number
        return number

    def _write(self, name: str, pieces: list[Piece]) -> None:
        if name not in self._files:
            if len(self._files) >= MAX_FILES:
                return  # the log records have it
            self._files.add(name)
        text = "".join(
            f"\n[... {int(text):,} characters left out ...]\n" if stream == LEFT_OUT else text
            for _, stream, _, text in pieces
        )
        try:
            with self._store.attach(name, append=True) as file:
                file.write(text.encode("utf-8", "replace"))
        except OSError:
            self._drop(DROPPED, 1)


def redacted(pieces: list[Piece], redact: Redactor) -> list[Piece]:
    """The pieces without secrets: they are searched as one text, as a secret may be in several."""
    lines = [
        text if stream == LEFT_OUT or text.endswith("\n") else f"{text}\n"
        for _, stream, _, text in pieces
    ]
    texts = [line for line, piece in zip(lines, pieces, strict=True) if piece[1] != LEFT_OUT]
    whole = "".join(texts)
    clean = redact.lines(whole)
    if clean == whole:
        return pieces
    if clean.count("\n") != whole.count("\n"):
        # A secret of several lines: it is not known to which pieces the rest belongs.
        at, stream, flags, _ = next(piece for piece in pieces if piece[1] != LEFT_OUT)
        return [(at, stream, flags, clean), *(piece for piece in pieces if piece[1] == LEFT_OUT)]
    rest = [f"{line}\n" for line in clean.split("\n")[:-1]]
    found: list[Piece] = []
    begin = 0
    for at, stream, flags, text in pieces:
        if stream == LEFT_OUT:
            found.append((at, stream, flags, text))
            continue
        count = text.count("\n") + (not text.endswith("\n"))
        part = "".join(rest[begin : begin + count])
        begin += count
        found.append((at, stream, flags, part if text.endswith("\n") else part[:-1]))
    return found


def _records(pieces: list[Piece]) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Attributes, time and body of the log record of each piece that no other record has."""
    left_out = 0
    for at, stream, flags, text in pieces:
        if stream == LEFT_OUT:
            left_out += int(text)
            continue
        body = text.removesuffix("\n")
        if flags & LOGGED or not body:
            continue
        attributes: dict[str, Any] = {}
        if stream in _STREAMS:
            attributes[semconv.LOG_STREAM] = _STREAMS[stream]
        if flags & (BY_ELIMINATION | RAW):
            attributes[semconv.OUTPUT_INFERRED] = True
        if left_out:
            attributes[semconv.OUTPUT_LEFT_OUT], left_out = left_out, 0
        yield attributes, at, body
