"""A report as an outline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from scalable.analysis import units
from scalable.analysis.argument_words import argument_sentences
from scalable.analysis.code_sections import code_section
from scalable.analysis.frames import relevant_frames
from scalable.analysis.gaps import lost_writers
from scalable.analysis.messages import message_and_values
from scalable.analysis.report import FailureGroup, Recorded, Report, worker_label
from scalable.analysis.sections import (
    Block,
    Column,
    Fact,
    Facts,
    Frames,
    Item,
    Outline,
    Quote,
    Row,
    Section,
    Sentence,
    Table,
    Tone,
    Value,
)
from scalable.analysis.units import percent, plural, seconds
from scalable.analysis.words import (
    SHORT,
    has_no_workers,
    no_workers_words,
    ran_s,
    tasks_words,
    unknown_words,
    waiting_words,
    where_words,
)
from scalable_runs.schema import NameSummary, Spread, WorkerSummary

_T = TypeVar("_T")

STATUS_TONES: Final[Mapping[str, Tone]] = {
    "completed": "good",
    "running": "active",
    "cancelled": "warning",
    "failed": "bad",
    "lost": "bad",
}
#: Failures that belong to no task, by phase.
_PHASES: Final[Mapping[str | None, str]] = {
    "run": "ended the run",
    "session.context": "ended the run",
    "session.start": "the session did not start",
    "session.close": "while the session was closed",
    "scheduler_lost": "the end of the record",
}
_MAX_NAMES: Final = 20
_MAX_FAILURES: Final = 10
_MAX_WORKERS: Final = 16
_MAX_RECORDED: Final = 10
#: The same on a card.
_CARD_NAMES: Final = 8
_CARD_FAILURES: Final = 3


def report_outline(report: Report) -> Outline:
    """Return what a report says."""
    return _outline(
        report,
        _unfinished(report),
        _tasks(report),
        _slowest(report),
        _failures(report),
        _workers(report),
        code_section(report.code),
        _artifacts(report),
        _metrics(report),
        _record(report),
        _next(report),
    )


def card_outline(report: Report) -> Outline:
    """Return what a report says on one page: for a pull request or the appendix of a paper."""
    return _outline(
        report,
        _tasks(report, _CARD_NAMES),
        _failures(report, _CARD_FAILURES),
        code_section(report.code),
        _artifacts(report),
        _metrics(report),
        _record(report),
    )


def _outline(report: Report, *sections: Section | None) -> Outline:
    tone: Tone = STATUS_TONES.get(report.status, "")
    if report.status == "completed" and (report.counts["tasks_failed"] or report.unknown):
        tone = "warning"
    after = ""
    if report.wall_s is not None:
        after = {"running": " for ", "lost": " after "}.get(report.status, " in ")
        after += seconds(report.wall_s)
    head = (
        Section((Quote((report.run_id,)), *_lead(report))),
        Section((Facts(tuple(_facts(report))),)),
    )
    shown = (*head, *(section for section in sections if section is not None))
    return Outline(report.project or "run", shown, report.status, tone, after)


# -- head ------------------------------------------------------------------------------------------


def _lead(report: Report) -> Iterator[Sentence]:
    """Yield what a reader must know before any number."""
    if report.why:
        yield Sentence(report.why, "lead")
    if has_no_workers(report):
        yield Sentence(f"{no_workers_words(report)}.", "lead")
    if report.unknown:
        whose = "its" if report.unknown == 1 else "their"
        text = f"{unknown_words(report)}: the record stops before {whose} end."
        yield Sentence(text, "lead")
    if report.is_live:
        now = _clock(report, report.as_of)
        yield Sentence(f"Still running: these are the numbers at {now} UTC.", "lead")


def _facts(report: Report) -> Iterator[Fact]:
    counts = report.counts
    if report.started_at is not None:
        last = {"lost": "last seen "}.get(report.status, "now ")
        if report.finished_at:
            last = ""
        end = f" – {last}{_clock(report, report.end)}" if report.end else ""
        yield Fact("When", f"{report.started_at:%Y-%m-%d %H:%M:%S}{end} UTC")
    if where := where_words(report):
        yield Fact("Where", where)
    if writers := report.document["run"].get("writers"):
        lost = len(lost_writers(report.document["run"]))
        words = f", {lost:,} of them killed" if lost else ""
        yield Fact("Writers", f"{plural(len(writers), 'program')}{words}")
    yield Fact("Tasks", tasks_words(report))
    if counts["attempts"]:
        yield Fact("Attempts", _attempts(report))
    if executed := _executed(report):
        yield Fact("Executed", executed)
    if report.workers or counts["workers_lost"]:
        lost = f", {counts['workers_lost']:,} lost" if counts["workers_lost"] else ""
        peak = max(report.workers, key=lambda row: row["memory_gb_max"] or 0.0, default=None)
        used = ""
        if peak is not None and peak["memory_gb_max"]:
            amount = units.memory(peak["memory_gb_max"], peak["memory_limit_gb"])
            used = f"; at most {amount} of memory in one"
        yield Fact("Workers", f"{plural(len(report.workers), 'worker')}{lost}{used}")
    hits = report.cache["hits"]
    looked_up = hits + report.cache["misses"]
    if looked_up:
        share = percent(hits / looked_up)
        text = f"{hits:,} of {plural(looked_up, 'look-up')} hit ({share})"
        yield Fact("Cache", text)
    if cost := _cost(report.document.get("cost")):
        yield Fact("Cost", cost)
    if report.trace_id:
        yield Fact("Trace", report.trace_id)
    yield Fact("Path", str(report.path), is_whole=True)


def _attempts(report: Report) -> str:
    counts = report.counts
    again, rescheduled = counts["tasks_recomputed"], counts.get("tasks_rescheduled", 0)
    parts = units.counts(
        (counts["tasks_retried"] - rescheduled, "raised and retried"),
        (rescheduled, "asked to be run again elsewhere"),
        (counts["tasks_lost"], "lost with their worker"),
        (again, f"to compute {'a lost result' if again == 1 else 'lost results'} again"),
    )
    return plural(counts["attempts"], "attempt") + (f": {parts}" if parts else "")


def _executed(report: Report) -> str:
    rows = report.tasks.values()
    executed = sum(row["duration"]["total"] for row in rows)
    cut_short = sum(row.get("cut_short_s", 0.0) for row in rows)
    if not executed and not cut_short:
        return ""
    lost = busy = ""
    if cut_short >= SHORT:
        number = sum(row.get("cut_short", 0) for row in rows)
        which = "an attempt that was" if number == 1 else f"{number:,} attempts that were"
        lost = f", {seconds(cut_short)} in {which} lost or cancelled"
    ratio = report.resources["busy_ratio"]
    if ratio is not None:
        busy = f"; {percent(ratio)} of the workers' time"
    return f"{seconds(executed)} in finished attempts{lost}{busy}"


def _cost(cost: object) -> str:
    """Say what was recorded of costs, apart from what was estimated."""
    if not isinstance(cost, Mapping):
        return ""
    rows: Any = cost.get("by_currency")
    parts: list[str] = []
    for currency, row in rows.items() if isinstance(rows, Mapping) else ():
        if isinstance(row, Mapping):
            number = row.get("records")
            several = f" in {number} records" if isinstance(number, int) and number > 1 else ""
            parts.append(f"{_amount(row, str(currency))}{several}")
    estimate = cost.get("estimate")
    if isinstance(estimate, Mapping):
        parts.append(f"{_amount(estimate, str(estimate.get('currency') or ''))} by estimate")
    return "; ".join(filter(None, parts))


def _amount(row: Mapping[str, Any], currency: str) -> str:
    for name, span in (("total_hourly", "an hour"), ("total_monthly", "a month")):
        value = row.get(name)
        if isinstance(value, int | float):
            return f"{value:,.2f} {currency} {span}".replace("  ", " ")
    return ""


# -- tasks -----------------------------------------------------------------------------------------


def _unfinished(report: Report) -> Section | None:
    running, waiting = report.counts["tasks_running"], report.counts["tasks_waiting"]
    if not running and not waiting:
        return None
    when = "the recorder died" if report.status == "lost" else "the record ends"
    title = f"{'Running' if running else 'Waiting'} {'now' if report.is_live else f'when {when}'}"
    blocks: list[Block] = []
    if report.unfinished:
        blocks.append(
            _table(
                report.unfinished,
                (
                    Column("For", "seconds"),
                    lambda task: ran_s(report, task),
                ),
                (Column("Attempt", "ordinal", drop=1), lambda task: task["attempt"]),
                (Column("Worker", drop=2), lambda task: report.worker_label(task["worker"])),
                (Column("Task"), lambda task: _label(task["task_name"], task["task_id"])),
                widest=3,
            )
        )
    blocks += _more(running - len(report.unfinished), "more that began later")
    if waiting and running:
        text = waiting_words(report)
        if report.is_live:
            text = f"{plural(waiting, 'task')} waiting to run"
        blocks.append(Sentence(text, "aside", "quiet"))
    return Section(tuple(blocks), title, plural(running or waiting, "task"))


def _tasks(report: Report, limit: int = _MAX_NAMES) -> Section | None:
    rows = sorted(
        report.tasks.items(),
        key=lambda item: (
            -item[1]["duration"]["total"] - item[1].get("cut_short_s", 0.0),
            -item[1]["count"],
            item[0],
        ),
    )
    if not rows:
        return None
    shown, rest = rows[:limit], [row for _, row in rows[limit:]]
    asides = ["most time first"] if len(rows) > 1 else []
    if any(row["queue"]["count"] for _, row in shown):
        asides.append("Queued: mean wait for a worker")
    table = _table(
        shown,
        (Column("Name"), lambda item: item[0]),
        (Column("Tasks", "count"), lambda item: item[1]["count"]),
        (Column("Total", "seconds"), lambda item: _total(item[1]["duration"])),
        (Column("Mean", "seconds"), lambda item: item[1]["duration"]["mean"]),
        (Column("p50", "seconds", drop=2), lambda item: item[1]["duration"]["p50"]),
        (Column("p95", "seconds", drop=1), lambda item: item[1]["duration"]["p95"]),
        (Column("Max", "seconds"), lambda item: item[1]["duration"]["max"]),
        (Column("Queued", "seconds", drop=3), lambda item: item[1]["queue"]["mean"]),
        note=lambda item: _states(item[1], live=report.status == "running"),
    )
    blocks: list[Block] = [table]
    if rest:
        count = sum(row["count"] for row in rest)
        total = seconds(sum(row["duration"]["total"] for row in rest))
        text = f"and {plural(len(rest), 'more name')} with {plural(count, 'task')}, {total} in all"
        blocks.append(Sentence(text, "aside", "quiet"))
    return Section(tuple(blocks), "Tasks by name", "; ".join(asides))


def _total(spread: Spread) -> float | None:
    return spread["total"] if spread["count"] else None


def _states(row: NameSummary, *, live: bool) -> Sentence | None:
    """Say what became of a name's tasks, where that is more than success."""
    succeeded, failed, cancelled = row["succeeded"], row["failed"], row["cancelled"]
    retried, lost = row["retried"], row["lost"]
    unfinished = row["count"] - succeeded - failed - cancelled
    unusual = units.counts(
        (failed, "failed"),
        (cancelled, "cancelled"),
        (unfinished, "not finished" if live else "with an unknown end"),
        (retried, "retried" if retried == 1 else "attempts retried"),
        (lost, f"{'attempt' if lost == 1 else 'attempts'} lost with a worker"),
        (row["recomputed"], "computed again"),
    )
    cut_short = row.get("cut_short_s", 0.0)
    if cut_short >= SHORT:
        unusual += f" ({seconds(cut_short)} in attempts lost or cancelled)"
    if not unusual:
        return None
    uneven = cancelled or retried or lost or row["count"] > succeeded
    tone: Tone = "bad" if failed else "warning" if uneven else ""
    return Sentence(f"{succeeded:,} succeeded, {unusual}" if succeeded else unusual, tone=tone)


def _slowest(report: Report) -> Section | None:
    # Attempts shorter than that differ by noise.
    attempts = [row for row in report.slowest if row["duration_s"] >= SHORT]
    if not attempts:
        return None
    table = _table(
        attempts,
        (Column("Took", "seconds"), lambda row: row["duration_s"]),
        (Column("Attempt", "ordinal", drop=2), lambda row: row.get("attempt")),
        (Column("State"), lambda row: row["state"]),
        (Column("Worker", drop=1), lambda row: report.worker_label(row.get("worker"))),
        (Column("Task"), lambda row: _label(row.get("task_name"), row["task_id"])),
        widest=4,
    )
    return Section((table,), "Slowest attempts")


# -- failures --------------------------------------------------------------------------------------


def _failures(report: Report, limit: int = _MAX_FAILURES) -> Section | None:
    groups = report.failures
    if not groups:
        return None
    number = {
        kind: sum(group.count for group in groups if group.kind == kind)
        for kind in ("task", "worker", "program")
    }
    parts = [
        f"{plural(number['task'], 'attempt')} failed" if number["task"] else "",
        f"{plural(number['worker'], 'worker')} lost" if number["worker"] else "",
        f"{number['program']:,} of the program or session" if number["program"] else "",
        f"{len(groups):,} causes" if len(groups) > 1 else "",
    ]
    blocks: list[Block] = [_failure(report, group) for group in groups[:limit]]
    rest = groups[limit:]
    if rest:
        count = sum(group.count for group in rest)
        text = f"and {count:,} of {plural(len(rest), 'more cause')}"
        blocks.append(Sentence(text, "aside", "quiet"))
    return Section(tuple(blocks), "Failures", ", ".join(filter(None, parts)))


def _failure(report: Report, group: FailureGroup) -> Item:
    text = group.message
    if group.kind == "worker" and group.count > 1:
        # The first part of the message is of one worker alone.
        text = text.partition("); ")[2] or text
    message, values = message_and_values(text, group.messages)
    blocks: list[Block] = [Sentence(values)] if values else []
    blocks += _circumstances(report, group)
    blocks += map(Sentence, argument_sentences(group.arguments, group.count))
    frames = relevant_frames(group.traceback or "")
    # Frames of this package, or of another, explain nothing of the program's own exception.
    if frames and (group.kind != "program" or any(frame.is_own for frame in frames)):
        blocks.append(Frames(frames, report.program, "quiet"))
    return Item(
        mark=f"{group.count:,} × ",
        title=message._replace(before=f"{group.failure_class}: ")
        if message.text
        else group.failure_class,
        blocks=tuple(blocks),
        tone="bad",
    )


def _circumstances(report: Report, group: FailureGroup) -> Iterator[Sentence]:
    parts = [_PHASES[group.phase]] if group.phase in _PHASES else []
    if group.task_names:
        parts.append(f"in {_members(group.task_names)}")
    if len(group.workers) == 1:
        parts.append(f"on worker {report.worker_label(next(iter(group.workers)))}")
    elif group.workers:
        parts.append(f"on {len(group.workers):,} workers")
    if group.retried:
        parts.append(f"{plural(group.retried, 'attempt')} retried")
    if group.dependents_failed:
        parts.append(f"{plural(group.dependents_failed, 'dependent')} failed with it")
    if group.first_at is not None:
        first, last = _clock(report, group.first_at), _clock(report, group.last_at)
        once = group.last_at is None or first == last
        parts.append(f"at {first}" if once else f"from {first} to {last}")
    if parts:
        yield Sentence("; ".join(parts))
    if group.ended_run is not None:
        yield Sentence("ended the run" + (f": {group.ended_run}" if group.ended_run else ""))


def _members(members: Mapping[str, int], limit: int = 3) -> str:
    if len(members) == 1:
        return next(iter(members))
    names = [f"{name} ({count:,})" for name, count in list(members.items())[:limit]]
    more = len(members) - limit
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")


# -- workers ---------------------------------------------------------------------------------------


def _workers(report: Report) -> Section | None:
    workers = sorted(report.workers, key=lambda row: (-row["lost"], _natural(row)))
    if not workers:
        return None
    table = _table(
        workers[:_MAX_WORKERS],
        (Column("Worker"), lambda row: worker_label(row["worker"], row["worker_id"])),
        (Column("Threads", "ordinal", drop=1), lambda row: row["nthreads"]),
        (Column("Lifetime", "seconds", drop=2), lambda row: row["lifetime_s"] or None),
        (Column("Busy", "share"), lambda row: row["busy_ratio"]),
        (Column("Attempts", "count", drop=3), lambda row: row["attempts"]),
        (Column("Peak", "gigabytes"), lambda row: row["memory_gb_max"]),
        (Column("Limit", "gigabytes"), lambda row: row["memory_limit_gb"]),
        (Column("State"), lambda row: row["state"] or "unknown"),
        note=_loss,
    )
    lost = sum(row["lost"] for row in workers)
    more = _more(len(workers) - _MAX_WORKERS, "more worker", "more workers")
    return Section((table, *more), "Workers", f"{lost:,} lost" if lost else "")


def _loss(row: WorkerSummary) -> Sentence | None:
    """Say what is known of a worker's loss beyond that it was lost."""
    lost, signal, exit_code = row["lost"], row["signal"], row["exit_code"]
    if not lost:
        return None
    if row["state"] != "lost":
        text = "lost before" if lost == 1 else f"lost {lost:,} times before"
        return Sentence(text, tone="bad")
    code = f"exit code {exit_code}" if exit_code and not signal else ""
    reason = row["reason"] if row["reason"] != row["state"] else ""
    how = ", ".join(filter(None, (signal, code, reason)))
    times = f"lost {lost:,} times" if lost > 1 else "lost" if how else ""
    text = ": ".join(filter(None, (times, how)))
    return Sentence(text, tone="bad") if text else None


def _natural(row: WorkerSummary) -> tuple[int, str]:
    """Sort workers named by numbers as numbers."""
    name = row["worker_id"] or row["worker"] or ""
    return (int(name), "") if name.isdecimal() and len(name) < 10 else (1 << 40, name)


# -- what the program recorded, and the record itself ----------------------------------------------


def _artifacts(report: Report) -> Section | None:
    count = report.counts["artifact_events"]
    if not count:
        return None
    shown = report.artifacts[:_MAX_RECORDED]
    table = _table(
        shown,
        (Column("Size", "bytes"), lambda row: row.detail.get("size_bytes")),
        (Column("Kind", drop=2), lambda row: row.detail.get("kind")),
        (Column("Digest", drop=1), lambda row: str(row.detail.get("digest") or "-")[:19]),
        (Column("Name"), lambda row: row.name),
        widest=3,
    )
    more = _more(count - len(shown), "more in artifacts.jsonl")
    return Section((*([table] if shown else []), *more), "Artifacts", f"{count:,}")


def _metrics(report: Report) -> Section | None:
    if not report.metrics:
        return None
    shown = report.metrics[:_MAX_RECORDED]
    table = _table(
        shown,
        (Column("Points", "count"), lambda row: row.count),
        (Column("Last", "number"), lambda row: row.detail["last"]),
        *(((Column("Step", "ordinal", drop=2), _step),) if any(map(_step, shown)) else ()),
        (Column("Min", "number"), lambda row: row.detail["min"]),
        (Column("Max", "number"), lambda row: row.detail["max"]),
        (Column("Unit", drop=1), lambda row: row.detail.get("unit") or ""),
        (Column("Name"), lambda row: row.name),
        widest=5,
        note=_best,
    )
    more = _more(len(report.metrics) - len(shown), "more in metrics.jsonl")
    return Section((table, *more), "Metrics", "of the program's own")


def _step(row: Recorded) -> str | None:
    """The step of the last value."""
    step = row.detail.get("step")
    return None if step is None else f"{step:,}"


def _best(row: Recorded) -> Sentence | None:
    """Say at which steps a series had its least and its greatest value."""
    least, greatest = row.detail.get("min_step"), row.detail.get("max_step")
    if least is None or greatest is None or row.count < 2:
        return None
    return Sentence(f"least at step {least:,}, greatest at step {greatest:,}")


def _record(report: Report) -> Section | None:
    if not report.missing and not report.notes:
        return None
    lacks = [Sentence(sentence, "bullet", "warning") for sentence in report.missing]
    notes = [Sentence(sentence, "bullet", "quiet") for sentence in report.notes]
    title = "What the record lacks" if report.missing else "About the record"
    return Section((*lacks, *notes), title)


def _next(report: Report) -> Section | None:
    if report.failures or report.unknown or report.status in ("failed", "lost", "cancelled"):
        return Section((Sentence("Why, and what to do: scalable diagnose", "line"),))
    return None


def _table(
    items: Sequence[_T],
    *columns: tuple[Column, Callable[[_T], Value]],
    widest: int = 0,
    note: Callable[[_T], Sentence | None] = lambda _: None,
) -> Table:
    """Make a table of columns, each with how its value follows from an item."""
    rows = [Row(tuple(value(item) for _, value in columns), note(item)) for item in items]
    return Table(tuple(column for column, _ in columns), tuple(rows), widest)


def _more(count: int, noun: str, several: str | None = None) -> Iterable[Sentence]:
    """Say how many more there are, if there are any."""
    if count > 0:
        yield Sentence(f"and {plural(count, noun, several or noun)}", "aside", "quiet")


def _clock(report: Report, moment: datetime | None) -> str:
    """Return a time of day, with the date where it is not the day of the run's start."""
    if moment is None:
        return "an unknown time"
    started = report.started_at
    same_day = started is not None and moment.date() == started.date()
    return f"{moment:%H:%M:%S}" if same_day else f"{moment:%Y-%m-%d %H:%M:%S}"


def _label(name: str | None, task_id: str) -> str:
    """Return a task's key, with its name in front if the key does not contain it."""
    return task_id if not name or name in task_id else f"{name} {task_id}"
