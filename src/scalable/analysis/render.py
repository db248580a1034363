"""A report as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import orjson

from scalable.analysis._text import (
    cells,
    escape_json,
    fit,
    gigabytes,
    percent,
    plural,
    printable,
    seconds,
    table,
    wrap,
)
from scalable.analysis.frames import relevant_frames
from scalable.analysis.overview import Overview
from scalable.analysis.page import MIN_WIDTH, Page, paint
from scalable.analysis.report import FailureGroup, Report, Worker
from scalable.analysis.words import (
    PHASES,
    SHORT,
    failure_words,
    failures_words,
    head_facts,
    is_uneven,
    size_words,
    state_words,
    states_words,
)

_MAX_NAMES: Final = 20
_MAX_FAILURES: Final = 10
_MAX_WORKERS: Final = 16
_MAX_OWN: Final = 10
#: Characters of a message, on a terminal and elsewhere.
_MAX_ELIDED: Final = 300
_MAX_MESSAGE: Final = 800

_JSON_OPTIONS: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z

_STATUS_COLOUR: Final = {
    "completed": "green",
    "running": "cyan",
    "cancelled": "yellow",
    "failed": "red",
    "lost": "red",
}


def render_json(report: Report) -> dict[str, Any]:
    """Return the report as a document: summary.json's shape, and under `report` what is more.

    In it: `path`, `status` and `why`, `is_live`, `as_of` (when the last thing known of the run
    happened), `source` (`summary.json` or `scan`), `missing` (what the record lacks) and `notes`,
    sentences each.
    """
    return {
        **report.document,
        "report": {
            "path": path_text(report.path),
            "status": report.status,
            "why": report.why,
            "is_live": report.is_live,
            "as_of": _iso(report.as_of),
            "source": report.source,
            "missing": list(report.missing),
            "notes": list(report.notes),
        },
    }


def json_text(document: Any) -> str:
    """Return a document as JSON that is as safe to look at on a terminal as it is to parse."""
    try:
        data = orjson.dumps(document, option=_JSON_OPTIONS)
    except TypeError:
        data = orjson.dumps(_shallow(document), option=_JSON_OPTIONS)
    return escape_json(data.decode())


def _shallow(value: Any, depth: int = 50) -> Any:
    """Cut off what is nested deeper than can be written: a run may hold what others wrote."""
    if not isinstance(value, dict | list):
        return value
    if not depth:
        return "…"
    if isinstance(value, dict):
        table = cast("dict[Any, Any]", value)
        return {str(name): _shallow(below, depth - 1) for name, below in table.items()}
    return [_shallow(item, depth - 1) for item in cast("list[Any]", value)]


def path_text(path: Path) -> str:
    """Return a path as text that can be encoded: a file name may be any bytes."""
    return str(path).encode(errors="replace").decode()


def render_text(
    report: Report,
    width: int = 80,
    color: bool = False,
    *,
    elide: bool = False,
    strict: bool = True,
) -> str:
    """Return the report as lines of at most `width` columns; see :class:`Page`."""
    page = Page(max(MIN_WIDTH, width), color, elide, strict)
    return "\n".join(_Text(report, page).lines()) + "\n"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def render_overviews(
    overviews: Sequence[Overview], width: int = 80, color: bool = False, *, strict: bool = True
) -> str:
    """Return a table of runs, of at most `width` columns where that is `strict`.

    Where the ids do not fit they are cut to beginnings that still tell the runs apart.
    """
    ids = [printable(overview.run_id) for overview in overviews]
    header = ["Run", "Project", "Status", "Started (UTC)", "Took", "Tasks", "Failed"]
    right = [False, False, False, False, True, True, True]
    rows = [
        [
            run_id,
            fit(printable(run.project) or "-", _MAX_PROJECT if strict else 200),
            run.status if run.readable else "unreadable",
            "-" if run.started_at is None else f"{run.started_at:%Y-%m-%d %H:%M}",
            seconds(run.duration_s),
            "-" if run.tasks is None else f"{run.tasks:,}",
            "-" if run.failures is None else f"{run.failures:,}",
        ]
        for run_id, run in zip(ids, overviews, strict=True)
    ]
    if strict and any(cells(line) > width for line in table([header, *rows], right)):
        for row, run_id in zip(rows, _beginnings(ids), strict=True):
            row[0] = run_id
        excess = max(map(cells, table([header, *rows], right))) - width
        if excess > 0:
            room = max(7, max(cells(row[1]) for row in rows) - excess)
            for row in rows:
                row[1] = fit(row[1], room)
    head, *body = table([header, *rows], right)
    lines = [paint(head, "dim") if color else head]
    for line, row in zip(body, rows, strict=True):
        status = row[2]
        style = _STATUS_COLOUR.get(status, "yellow")
        lines.append(line.replace(status, paint(status, style), 1) if color else line)
    return "\n".join(lines) + "\n"


_MAX_PROJECT: Final = 24
_ID_TO_SECOND: Final = len("run-20260102T030405")


def _beginnings(ids: Sequence[str]) -> list[str]:
    """Cut each id as short as it can be given to `--run-id`."""
    cut: list[str] = []
    for run_id in ids:
        length = _ID_TO_SECOND
        while length < len(run_id) and any(
            other.startswith(run_id[:length]) for other in ids if other != run_id
        ):
            length += 1
        cut.append(run_id[:length])
    return cut


class _Text:
    """The text of one report; every method yields the lines of one section."""

    def __init__(self, report: Report, page: Page) -> None:
        self._report = report
        self._page = page
        self._width = page.width
        self._paint = page.paint
        started = report.started_at
        self._day = started.date() if started else None

    def lines(self) -> Iterator[str]:
        yield from self._head()
        for section in (
            self._unfinished,
            self._tasks,
            self._slowest,
            self._failures,
            self._workers,
            self._own,
            self._record,
            self._next,
        ):
            lines = list(section())
            if lines:
                yield ""
                yield from lines

    # -- head ----------------------------------------------------------------------------------

    def _head(self) -> Iterator[str]:
        report = self._report
        project = fit(printable(report.project) or "run", self._width - 40)
        colour = _STATUS_COLOUR.get(report.status, "bold")
        if report.status == "completed" and (report.counts["tasks_failed"] or report.unknown):
            colour = "yellow"
        status = self._paint(report.status, colour, "bold")
        how_long = ""
        if report.wall_s is not None:
            how_long = {"running": " for ", "lost": " after "}.get(report.status, " in ")
            how_long += seconds(report.wall_s)
        yield f"{self._paint(project, 'bold')}  {status}{how_long}"
        yield from self._page.quoted(printable(report.run_id), "")
        if report.why:
            yield from self._wrapped(report.why)
        for sentence in state_words(report):
            yield from self._wrapped(sentence)
        if report.is_live:
            yield from self._wrapped(
                f"Still running: these are the numbers at {self._clock(report.as_of)} UTC."
            )
        yield ""
        for label, text in head_facts(report, self._clock):
            yield from wrap(text, self._width, first=f"{label:<10}", indent=" " * 10)
        # Whole on its line, however long: it is there to be copied.
        yield f"{'Path':<10}{printable(report.path)}"

    # -- sections ------------------------------------------------------------------------------

    def _unfinished(self) -> Iterator[str]:
        report = self._report
        running, waiting = report.counts["tasks_running"], report.counts["tasks_waiting"]
        if not running and not waiting:
            return
        if report.is_live:
            title = f"{'Running' if running else 'Waiting'} now"
        else:
            end = "the recorder died" if report.status == "lost" else "the record ends"
            title = f"{'Running' if running else 'Waiting'} when {end}"
        yield self._title(title, plural(running or waiting, "task"))
        rows = [
            [
                seconds(_between(task.since, report.finished_at or report.as_of)),
                f"{task.attempt}",
                printable(report.worker_label(task.worker)),
                _label(task.task_name, task.task_id),
            ]
            for task in report.unfinished
        ]
        if rows:
            yield from self._table(
                ["For", "Attempt", "Worker", "Task"],
                rows,
                [True, True, False, False],
                stretch=3,
                drop=(1, 2),
            )
        more = running - len(rows)
        if more > 0:
            yield self._note(f"and {more:,} more that began later")
        if waiting and running:
            yield self._note(
                f"{plural(waiting, 'task')} waiting to run"
                if report.is_live
                else f"{plural(waiting, 'task')} had not begun, or waited to run again"
            )

    def _tasks(self) -> Iterator[str]:
        groups = sorted(
            self._report.tasks,
            key=lambda group: (-group.duration.total - group.cut_short_s, -group.count, group.name),
        )
        if not groups:
            return
        asides = ["most time first"] if len(groups) > 1 else []
        shown = groups[:_MAX_NAMES]
        if any(group.queue.count for group in shown):
            asides.append("Queued: mean wait for a worker")
        yield self._title("Tasks by name", "; ".join(asides))
        rows = [
            [
                printable(group.name),
                f"{group.count:,}",
                seconds(group.duration.total) if group.duration.count else "-",
                seconds(group.duration.mean),
                seconds(group.duration.p50),
                seconds(group.duration.p95),
                seconds(group.duration.max),
                seconds(group.queue.mean),
            ]
            for group in shown
        ]
        header = ["Name", "Tasks", "Total", "Mean", "p50", "p95", "Max", "Queued"]
        first, *lines = self._page.table(
            header, rows, [False, *[True] * 7], stretch=0, drop=(5, 4, 7)
        )
        yield from self._dim(first)
        for group, row in zip(shown, lines, strict=True):
            yield from row
            states = states_words(group, live=self._report.status == "running")
            if states:
                colour = "red" if group.failed else "yellow" if is_uneven(group) else ""
                for part in wrap(states, self._width - 4):
                    yield "    " + (self._paint(part, colour) if colour else part)
        rest = groups[_MAX_NAMES:]
        if rest:
            count = sum(group.count for group in rest)
            total = seconds(sum(group.duration.total for group in rest))
            yield self._note(
                f"and {plural(len(rest), 'more name')} with {plural(count, 'task')}, {total} in all"
            )

    def _slowest(self) -> Iterator[str]:
        # Of attempts shorter than that no one is slow.
        attempts = [row for row in self._report.slowest if row.duration_s >= SHORT]
        if not attempts:
            return
        yield self._title("Slowest attempts")
        rows = [
            [
                seconds(attempt.duration_s),
                "-" if attempt.attempt is None else f"{attempt.attempt}",
                attempt.state,
                printable(self._report.worker_label(attempt.worker)),
                _label(attempt.task_name, attempt.task_id),
            ]
            for attempt in attempts
        ]
        header = ["Took", "Attempt", "State", "Worker", "Task"]
        right = [True, True, False, False, False]
        yield from self._table(header, rows, right, stretch=4, drop=(3, 1))

    def _failures(self) -> Iterator[str]:
        groups = self._report.failures
        if not groups:
            return
        yield self._title("Failures", failures_words(groups))
        for position, group in enumerate(groups[:_MAX_FAILURES]):
            if position:
                yield ""
            yield from self._failure(group)
        rest = groups[_MAX_FAILURES:]
        if rest:
            count = sum(group.count for group in rest)
            yield ""
            yield self._note(f"and {count:,} of {plural(len(rest), 'more cause')}")

    def _failure(self, group: FailureGroup) -> Iterator[str]:
        count = f"{group.count:,} × "
        indent = "  " + " " * cells(count)
        head, aside = failure_words(group, _MAX_ELIDED if self._page.elide else _MAX_MESSAGE)
        first, *more = wrap(head, self._width, first=f"  {count}", indent=indent)
        yield f"  {self._paint(first[2:], 'red')}"
        yield from more
        if aside:
            yield from wrap(aside, self._width, first=indent, indent=indent)
        for text in self._circumstances(group):
            yield from wrap(text, self._width, first=indent, indent=indent)
        frames = relevant_frames(group.traceback or "")
        if group.kind == "program" and not any(frame.is_own for frame in frames):
            frames = ()  # how this package, or another, came to it tells nobody anything
        for frame in frames:
            for line in self._page.frame(frame, self._report.program, indent):
                yield self._paint(line, "dim")

    def _circumstances(self, group: FailureGroup) -> Iterator[str]:
        report = self._report
        parts: list[str] = []
        if group.phase is not None and group.phase in PHASES:
            parts.append(PHASES[group.phase])
        if group.task_names:
            parts.append(f"in {_members(group.task_names, 3)}")
        if len(group.workers) == 1:
            parts.append(f"on worker {printable(report.worker_label(next(iter(group.workers))))}")
        elif group.workers:
            parts.append(f"on {len(group.workers):,} workers")
        if group.retried:
            parts.append(f"{plural(group.retried, 'attempt')} retried")
        if group.dependents_failed:
            parts.append(f"{plural(group.dependents_failed, 'dependent')} failed with it")
        if group.first_at is not None:
            first, last = self._clock(group.first_at), self._clock(group.last_at)
            once = group.last_at is None or first == last
            parts.append(f"at {first}" if once else f"from {first} to {last}")
        if parts:
            yield "; ".join(parts)
        if group.ended_run is not None:
            where = printable(group.ended_run)
            yield "ended the run" + (f": {where}" if where else "")

    def _workers(self) -> Iterator[str]:
        workers = sorted(self._report.workers, key=lambda worker: (-worker.lost, _natural(worker)))
        if not workers:
            return
        lost = sum(worker.lost for worker in workers)
        yield self._title("Workers", f"{lost:,} lost" if lost else "")
        shown = workers[:_MAX_WORKERS]
        rows = [
            [
                printable(worker.label),
                "-" if worker.nthreads is None else f"{worker.nthreads}",
                seconds(worker.lifetime_s) if worker.lifetime_s else "-",
                percent(worker.busy_ratio),
                f"{worker.attempts:,}",
                gigabytes(worker.memory_gb_max),
                gigabytes(worker.memory_limit_gb),
                printable(worker.state or "unknown"),
            ]
            for worker in shown
        ]
        header = ["Worker", "Threads", "Lifetime", "Busy", "Attempts", "Peak", "Limit", "State"]
        right = [False, True, True, True, True, True, True, False]
        first, *lines = self._page.table(header, rows, right, stretch=0, drop=(1, 2, 4))
        yield from self._dim(first)
        for worker, row in zip(shown, lines, strict=True):
            yield from row
            loss = _loss(worker)
            if loss:
                for part in wrap(loss, self._width - 4):
                    yield "    " + self._paint(part, "red")
        rest = workers[_MAX_WORKERS:]
        if rest:
            yield self._note(f"and {plural(len(rest), 'more worker')}")

    def _own(self) -> Iterator[str]:
        """Artifacts and metrics that the program recorded."""
        report = self._report
        count = report.counts["artifact_events"]
        if count:
            yield self._title("Artifacts", f"{count:,}")
            rows = [
                [
                    size_words(row.detail.get("size_bytes")),
                    printable(row.detail.get("kind") or "-"),
                    printable(str(row.detail.get("digest") or "-"))[:19],
                    printable(row.name),
                ]
                for row in report.artifacts[:_MAX_OWN]
            ]
            if rows:
                yield from self._table(
                    ["Size", "Kind", "Digest", "Name"],
                    rows,
                    [True, False, False, False],
                    stretch=3,
                    drop=(2, 1),
                )
            if count > len(rows):
                yield self._note(f"and {count - len(rows):,} more in artifacts.jsonl")
        if report.metrics:
            if count:
                yield ""
            yield self._title("Metrics", "of the program's own")
            rows = [
                [
                    f"{row.count:,}",
                    *(f"{row.detail[name]:.6g}" for name in ("last", "min", "max")),
                    printable(row.detail.get("unit") or ""),
                    printable(row.name),
                ]
                for row in report.metrics[:_MAX_OWN]
            ]
            yield from self._table(
                ["Points", "Last", "Min", "Max", "Unit", "Name"],
                rows,
                [True, True, True, True, False, False],
                stretch=5,
                drop=(4,),
            )
            more = len(report.metrics) - len(rows)
            if more:
                yield self._note(f"and {more:,} more in metrics.jsonl")

    def _record(self) -> Iterator[str]:
        report = self._report
        if report.missing:
            yield self._title("What the record lacks")
            for sentence in report.missing:
                yield from self._bullet(sentence, "yellow")
        elif report.notes:
            yield self._title("About the record")
        for sentence in report.notes:
            yield from self._bullet(sentence)

    def _next(self) -> Iterator[str]:
        report = self._report
        if report.failures or report.unknown or report.status in ("failed", "lost", "cancelled"):
            yield "Why, and what to do: scalable diagnose"

    # -- pieces --------------------------------------------------------------------------------

    def _title(self, title: str, aside: str = "") -> str:
        text = self._paint(title, "bold")
        if not aside:
            return text
        if cells(title) + cells(aside) + 3 > self._width:
            return "\n".join(wrap(f"{title} ({aside})", self._width))
        return f"{text} ({aside})"

    def _note(self, text: str) -> str:
        return self._paint("\n".join(wrap(text, self._width, first="  ", indent="  ")), "dim")

    def _wrapped(self, text: str) -> list[str]:
        lines = wrap(printable(text), self._width)
        if self._page.elide and len(lines) > 6:
            return [*lines[:5], fit(f"{lines[5]}…", self._width)]
        return lines

    def _bullet(self, text: str, style: str = "dim") -> Iterator[str]:
        for line in wrap(printable(text), self._width, first="  - ", indent="    "):
            yield self._paint(line, style)

    def _dim(self, lines: Sequence[str]) -> Iterator[str]:
        for line in lines:
            yield "  " + self._paint(line[2:], "dim")

    def _table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        right: Sequence[bool],
        *,
        stretch: int,
        drop: Sequence[int] = (),
    ) -> Iterator[str]:
        first, *body = self._page.table(header, rows, right, stretch=stretch, drop=drop)
        yield from self._dim(first)
        for row in body:
            yield from row

    def _clock(self, moment: datetime | None) -> str:
        if moment is None:
            return "an unknown time"
        if moment.date() != self._day:
            return f"{moment:%Y-%m-%d %H:%M:%S}"
        return f"{moment:%H:%M:%S}"


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    if begin is None or end is None:
        return None
    return max(0.0, (end - begin).total_seconds())


def _label(name: str, task_id: str) -> str:
    """Return a task's key, which begins with its name unless somebody chose another key."""
    name, task_id = printable(name), printable(task_id)
    return task_id if not name or name in task_id else f"{name} {task_id}"


def _members(members: Mapping[str, int], limit: int) -> str:
    names = [f"{printable(name)} ({count:,})" for name, count in list(members.items())[:limit]]
    if len(members) == 1:
        return printable(next(iter(members)))
    more = len(members) - limit
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")


def _loss(worker: Worker) -> str:
    """Say what is known of a worker's loss beyond that it was lost."""
    if not worker.lost:
        return ""
    if worker.state != "lost":
        return "lost before" if worker.lost == 1 else f"lost {worker.lost:,} times before"
    how = [
        worker.signal or "",
        f"exit code {worker.exit_code}" if worker.exit_code and not worker.signal else "",
        worker.reason if worker.reason and worker.reason != worker.state else "",
    ]
    known = ", ".join(printable(part) for part in how if part)
    times = f"lost {worker.lost:,} times" if worker.lost > 1 else ""
    return ": ".join(filter(None, (times or (known and "lost"), known)))


def _natural(worker: Worker) -> tuple[int, str]:
    """Sort workers named by numbers as numbers."""
    name = worker.name or worker.address or ""
    return (int(name), "") if name.isdecimal() and len(name) < 10 else (1 << 40, name)
