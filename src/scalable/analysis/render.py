"""A report as text for people and as JSON for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from scalable.analysis._text import (
    cells,
    escape_json,
    fit,
    gigabytes,
    percent,
    plural,
    printable,
    printable_lines,
    seconds,
    table,
    wrap,
)
from scalable.analysis.overview import Overview
from scalable.analysis.report import FailureGroup, Report, TaskGroup, Worker

#: Narrower than that nothing is readable.
MIN_WIDTH: Final = 60

_MAX_NAMES: Final = 20
_MAX_FAILURES: Final = 10
_MAX_WORKERS: Final = 16
_FRAMES: Final = 2
_DASK_FRAME: Final = re.compile(r'  File ".*/site-packages/(?:dask|distributed)/')

_JSON_OPTIONS: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z

_STATUS_COLOUR: Final = {
    "completed": "green",
    "running": "cyan",
    "cancelled": "yellow",
    "failed": "red",
    "lost": "red",
}
_SGR: Final = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


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
    return escape_json(orjson.dumps(document, option=_JSON_OPTIONS).decode())


def path_text(path: Path) -> str:
    """Return a path as text that can be encoded: a file name may be any bytes."""
    return str(path).encode(errors="replace").decode()


def render_text(report: Report, width: int = 80, color: bool = False) -> str:
    """Return the report as lines of at most `width` columns.

    Parameters
    ----------
    report
        What to tell.
    width
        Columns to fill, at least :data:`MIN_WIDTH`.
    color
        Whether to mark headings and states by terminal colours.
    """
    return "\n".join(_Text(report, max(MIN_WIDTH, width), color).lines()) + "\n"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def render_overviews(overviews: Sequence[Overview], width: int = 80, color: bool = False) -> str:
    """Return a table of runs of at most `width` columns.

    Where the ids do not fit they are cut to beginnings that still tell the runs apart.
    """
    ids = [printable(overview.run_id) for overview in overviews]
    year = next((run.started_at.year for run in overviews if run.started_at), None)
    header = ["Run", "Project", "Status", "Started", "Took", "Tasks", "Failed"]
    right = [False, False, False, False, True, True, True]
    rows = [
        [
            run_id,
            fit(printable(run.project) or "-", _MAX_PROJECT),
            run.status if run.readable else "unreadable",
            _listed(run.started_at, year),
            seconds(run.duration_s),
            "-" if run.tasks is None else f"{run.tasks:,}",
            "-" if run.failures is None else f"{run.failures:,}",
        ]
        for run_id, run in zip(ids, overviews, strict=True)
    ]
    if any(cells(line) > width for line in table([header, *rows], right)):
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


def _listed(moment: datetime | None, year: int | None) -> str:
    """Return a time as `ls -l` does, the year instead of the hour if it is another one."""
    if moment is None:
        return "-"
    return f"{moment:%b %d %H:%M}" if moment.year == year else f"{moment:%b %d  %Y}"


def paint(text: str, *styles: str) -> str:
    """Mark a text by terminal colours."""
    codes = ";".join(str(_SGR[style]) for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


class _Text:
    """The text of one report; every method yields the lines of one section."""

    def __init__(self, report: Report, width: int, color: bool) -> None:
        self._report = report
        self._width = width
        self._color = color
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
            self._record,
        ):
            lines = list(section())
            if lines:
                yield ""
                yield from lines

    # -- head ----------------------------------------------------------------------------------

    def _head(self) -> Iterator[str]:
        report = self._report
        project = fit(printable(report.project) or "run", self._width - 40)
        status = self._paint(report.status, _STATUS_COLOUR.get(report.status, "bold"), "bold")
        how_long = ""
        if report.wall_s is not None:
            how_long = {"running": " for ", "lost": " after "}.get(report.status, " in ")
            how_long += seconds(report.wall_s)
        yield f"{self._paint(project, 'bold')}  {status}{how_long}"
        yield self._paint(fit(printable(report.run_id), self._width), "dim")
        if report.why:
            yield from self._wrapped(report.why)
        if report.is_live:
            yield from self._wrapped(
                f"Still running: these are the numbers at {self._clock(report.as_of)} UTC."
            )
        yield ""
        for label, text in self._facts():
            yield from wrap(text, self._width, first=f"{label:<10}", indent=" " * 10)
        # Whole on its line, however long: it is there to be copied.
        yield f"{'Path':<10}{printable(report.path)}"

    def _facts(self) -> Iterator[tuple[str, str]]:
        report = self._report
        counts = report.counts
        if report.started_at is not None:
            until = report.finished_at or report.as_of
            last = "" if report.finished_at else "last seen " if report.status == "lost" else "now "
            end = f" – {last}{self._clock(until)}" if until else ""
            yield "When", f"{report.started_at:%Y-%m-%d %H:%M:%S}{end} UTC"
        where = filter(None, map(printable, (report.provider, report.target)))
        if report.provider or report.target:
            yield "Where", ", ".join(dict.fromkeys(where))
        yield (
            "Tasks",
            _sentence(
                plural(counts["tasks"], "task") if counts["tasks"] else "none",
                _list(
                    (counts["tasks_succeeded"], "succeeded"),
                    (counts["tasks_failed"], "failed"),
                    (counts["tasks_cancelled"], "cancelled"),
                    (counts["tasks_running"], "running"),
                    (counts["tasks_waiting"], "waiting"),
                ),
            ),
        )
        if counts["attempts"]:
            yield (
                "Attempts",
                _sentence(
                    plural(counts["attempts"], "attempt"),
                    _list(
                        (counts["tasks_retried"], "raised and retried"),
                        (counts["tasks_lost"], "lost with their worker"),
                        (counts["tasks_recomputed"], "to compute a lost result again"),
                    ),
                ),
            )
        executed = sum(group.duration.total for group in report.tasks)
        if executed:
            busy = (
                f", {percent(report.busy_ratio)} of the workers' time"
                if report.busy_ratio is not None
                else ""
            )
            yield "Executed", f"{seconds(executed)} in tasks{busy}"
        if report.workers or counts["workers_lost"]:
            lost = f", {counts['workers_lost']:,} lost" if counts["workers_lost"] else ""
            memory = (
                f"; at most {gigabytes(report.memory_gb_max)} of memory in one"
                if report.memory_gb_max
                else ""
            )
            yield "Workers", f"{plural(len(report.workers), 'worker')}{lost}{memory}"
        looked_up = report.cache_hits + report.cache_misses
        if looked_up:
            share = percent(report.cache_hits / looked_up)
            yield "Cache", f"{report.cache_hits:,} of {plural(looked_up, 'look-up')} hit ({share})"
        if report.trace_id:
            yield "Trace", printable(report.trace_id)

    # -- sections ------------------------------------------------------------------------------

    def _unfinished(self) -> Iterator[str]:
        report = self._report
        running, waiting = report.counts["tasks_running"], report.counts["tasks_waiting"]
        if not running and not waiting:
            return
        doing = "Running" if running else "Waiting"
        if report.is_live:
            title = f"{doing} now"
        elif report.status == "lost":
            title = f"{doing} when the recorder died"
        else:
            title = "Without an end"
        yield self._title(title, plural(running or waiting, "task"))
        rows = [
            [
                seconds(_between(task.since, report.as_of)),
                _label(task.task_name, task.task_id),
                f"{task.attempt}",
                printable(task.worker or "-"),
            ]
            for task in report.unfinished
        ]
        if rows:
            yield from self._table(
                ["For", "Task", "Attempt", "Worker"], rows, [True, False, True, False], stretch=1
            )
        more = running - len(rows)
        if more > 0:
            yield self._note(f"and {more:,} more that began later")
        if waiting and running:
            yield self._note(f"{plural(waiting, 'task')} waiting to run")

    def _tasks(self) -> Iterator[str]:
        groups = sorted(
            self._report.tasks, key=lambda group: (-group.duration.total, -group.count, group.name)
        )
        if not groups:
            if self._report.counts["task_events"] == 0:
                yield self._title("Tasks")
                yield self._note("No task was recorded.")
            return
        yield self._title("Tasks by name", "most time first" if len(groups) > 1 else "")
        shown = groups[:_MAX_NAMES]
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
        lines = list(self._table(header, rows, [False, *[True] * 7], stretch=0))
        yield lines[0]
        for group, line in zip(shown, lines[1:], strict=True):
            yield line
            states = _states(group)
            if states:
                for part in wrap(states, self._width - 4):
                    yield "    " + self._paint(part, "red" if group.failed else "yellow")
        rest = groups[_MAX_NAMES:]
        if rest:
            count = sum(group.count for group in rest)
            total = seconds(sum(group.duration.total for group in rest))
            yield self._note(
                f"and {plural(len(rest), 'more name')} with {plural(count, 'task')}, {total} in all"
            )

    def _slowest(self) -> Iterator[str]:
        if not self._report.slowest:
            return
        yield self._title("Slowest attempts")
        rows = [
            [
                seconds(attempt.duration_s),
                _label(attempt.task_name, attempt.task_id),
                "-" if attempt.attempt is None else f"{attempt.attempt}",
                attempt.state,
                printable(attempt.worker or "-"),
            ]
            for attempt in self._report.slowest
        ]
        header = ["Took", "Task", "Attempt", "State", "Worker"]
        yield from self._table(header, rows, [True, False, True, False, False], stretch=1)

    def _failures(self) -> Iterator[str]:
        groups = self._report.failures
        if not groups:
            return
        total = sum(group.count for group in groups)
        yield self._title("Failures", f"{total:,}, of {plural(len(groups), 'cause')}")
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
        message = printable(group.message[:400])
        what = f"{printable(group.failure_class)}: {message}" if message else group.failure_class
        first, *more = wrap(what, self._width, first=f"  {count}", indent=indent)
        yield f"  {self._paint(first[2:], 'red')}"
        yield from more[:3]
        for text in self._circumstances(group):
            yield from wrap(text, self._width, first=indent, indent=indent)
        if group.traceback:
            for line in _frames(group.traceback):
                yield self._paint(
                    indent + fit(line, self._width - cells(indent), keep="ends"), "dim"
                )

    def _circumstances(self, group: FailureGroup) -> Iterator[str]:
        parts: list[str] = []
        if group.phase == "run":
            parts.append("ended the run")
        if group.task_names:
            parts.append(f"in {_members(group.task_names, 3)}")
        if len(group.workers) == 1:
            parts.append(f"on {printable(next(iter(group.workers)))}")
        elif group.workers:
            parts.append(f"on {len(group.workers):,} workers")
        if group.retried:
            parts.append(f"{group.retried:,} retried")
        if group.dependents_failed:
            parts.append(f"{plural(group.dependents_failed, 'dependent')} failed with it")
        if group.first_at is not None:
            first, last = self._clock(group.first_at), self._clock(group.last_at)
            once = group.last_at is None or first == last
            parts.append(f"at {first}" if once else f"from {first} to {last}")
        if parts:
            yield "; ".join(parts)

    def _workers(self) -> Iterator[str]:
        workers = sorted(self._report.workers, key=lambda worker: (-worker.lost, _natural(worker)))
        if not workers:
            return
        lost = sum(worker.lost for worker in workers)
        yield self._title("Workers", f"{lost:,} lost" if lost else "")
        shown = workers[:_MAX_WORKERS]
        rows = [
            [
                printable(worker.address or worker.name or "-"),
                "-" if worker.nthreads is None else f"{worker.nthreads}",
                seconds(worker.lifetime_s) if worker.lifetime_s else "-",
                percent(worker.busy_ratio),
                f"{worker.attempts:,}",
                gigabytes(worker.memory_gb_max),
                printable(worker.state or "unknown"),
            ]
            for worker in shown
        ]
        header = ["Worker", "Threads", "Lifetime", "Busy", "Attempts", "Memory", "State"]
        right = [False, True, True, True, True, True, False]
        first, *lines = self._table(header, rows, right, stretch=0)
        yield first
        for worker, line in zip(shown, lines, strict=True):
            yield line
            loss = _loss(worker)
            if loss:
                for part in wrap(loss, self._width - 4):
                    yield "    " + self._paint(part, "red")
        rest = workers[_MAX_WORKERS:]
        if rest:
            yield self._note(f"and {plural(len(rest), 'more worker')}")

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

    # -- pieces --------------------------------------------------------------------------------

    def _paint(self, text: str, *styles: str) -> str:
        return paint(text, *styles) if self._color and text else text

    def _title(self, title: str, aside: str = "") -> str:
        return self._paint(title, "bold") + (f" ({aside})" if aside else "")

    def _note(self, text: str) -> str:
        return self._paint(fit(f"  {text}", self._width), "dim")

    def _wrapped(self, text: str) -> list[str]:
        return wrap(printable(text), self._width)[:6]

    def _bullet(self, text: str, style: str = "dim") -> Iterator[str]:
        for line in wrap(printable(text), self._width, first="  - ", indent="    "):
            yield self._paint(line, style)

    def _table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        right: Sequence[bool],
        *,
        stretch: int,
    ) -> Iterator[str]:
        """Lay out rows under a header; the column `stretch` gives way if they are too wide."""
        taken = 2 + sum(
            max(cells(row[column]) for row in [header, *rows]) + 2
            for column in range(len(header))
            if column != stretch
        )
        room = max(12, self._width - taken)
        fitted = [
            [
                fit(text, room, keep="ends") if column == stretch else text
                for column, text in enumerate(row)
            ]
            for row in rows
        ]
        first, *body = table([list(header), *fitted], right)
        yield "  " + self._paint(fit(first, self._width - 2), "dim")
        for line in body:
            yield "  " + fit(line, self._width - 2)

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


def _sentence(whole: str, parts: str) -> str:
    return f"{whole}: {parts}" if parts else whole


def _list(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {word}" for count, word in counts if count)


def _label(name: str, task_id: str) -> str:
    """Return a task's key, which begins with its name unless somebody chose another key."""
    name, task_id = printable(name), printable(task_id)
    return task_id if not name or name in task_id else f"{name} {task_id}"


def _states(group: TaskGroup) -> str:
    """Say what became of a name's tasks, where that is more than success."""
    unfinished = group.count - group.succeeded - group.failed - group.cancelled
    unusual = _list(
        (group.failed, "failed"),
        (group.cancelled, "cancelled"),
        (unfinished, "without an end"),
        (group.retried, "retried"),
        (group.lost, "lost with a worker"),
        (group.recomputed, "computed again"),
    )
    if not unusual:
        return ""
    return f"{group.succeeded:,} succeeded, {unusual}" if group.succeeded else unusual


def _members(members: Mapping[str, int], limit: int) -> str:
    names = [f"{printable(name)} ({count:,})" for name, count in list(members.items())[:limit]]
    if len(members) == 1:
        return printable(next(iter(members)))
    more = len(members) - limit
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")


def _frames(traceback: str) -> list[str]:
    """Return the innermost frames of the user's code, without Dask's own and the message."""
    frames: list[list[str]] = []
    for line in printable_lines(traceback):
        if line.startswith("  File "):
            frames.append([line])
        elif frames and line.startswith("    ") and line.strip(" ^~"):
            frames[-1].append(line)
    own = [frame for frame in frames if not _DASK_FRAME.match(frame[0])] or frames
    return [line for frame in own[-_FRAMES:] for line in frame]


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
