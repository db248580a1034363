"""What a report says, in sentences without width or colour: `render` lays them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from scalable.analysis._text import cells, fit, gigabytes, percent, plural, printable, seconds
from scalable.analysis.messages import pattern_of
from scalable.analysis.report import FailureGroup, Report, TaskGroup

#: Values shown of messages that differ.
_MAX_VALUES: Final = 5

#: Attempts shorter than this (seconds) are not worth telling one from another.
SHORT: Final = 0.01

#: What failures that belong to no task were.
PHASES: Final[Mapping[str, str]] = {
    "run": "ended the run",
    "session.context": "ended the run",
    "session.start": "the session did not start",
    "session.close": "while the session was closed",
    "scheduler_lost": "the end of the record",
}


def head_facts(
    report: Report, clock: Callable[[datetime | None], str]
) -> Iterator[tuple[str, str]]:
    """Yield what a report begins with: a label and a sentence each."""
    counts = report.counts
    if report.started_at is not None:
        until = report.finished_at or report.as_of
        last = "" if report.finished_at else "last seen " if report.status == "lost" else "now "
        end = f" – {last}{clock(until)}" if until else ""
        yield "When", f"{report.started_at:%Y-%m-%d %H:%M:%S}{end} UTC"
    where = where_words(report)
    if where:
        yield "Where", where
    yield "Tasks", tasks_words(report)
    if counts["attempts"]:
        again = counts["tasks_recomputed"]
        rescheduled = counts.get("tasks_rescheduled", 0)
        yield (
            "Attempts",
            _sentence(
                plural(counts["attempts"], "attempt"),
                _list(
                    (counts["tasks_retried"] - rescheduled, "raised and retried"),
                    (rescheduled, "asked to be run again elsewhere"),
                    (counts["tasks_lost"], "lost with their worker"),
                    (
                        again,
                        f"to compute {'a lost result' if again == 1 else 'lost results'} again",
                    ),
                ),
            ),
        )
    executed = sum(group.duration.total for group in report.tasks)
    cut_short = sum(group.cut_short_s for group in report.tasks)
    if executed or cut_short:
        busy = (
            f"; {percent(report.busy_ratio)} of the workers' time"
            if report.busy_ratio is not None
            else ""
        )
        lost = ""
        if cut_short >= SHORT:
            number = sum(group.cut_short for group in report.tasks)
            which = "an attempt that was" if number == 1 else f"{number:,} attempts that were"
            lost = f", {seconds(cut_short)} in {which} lost or cancelled"
        yield "Executed", f"{seconds(executed)} in finished attempts{lost}{busy}"
    if report.workers or counts["workers_lost"]:
        lost = f", {counts['workers_lost']:,} lost" if counts["workers_lost"] else ""
        peak = max(report.workers, key=lambda row: row.memory_gb_max or 0.0, default=None)
        memory = (
            f"; at most {memory_words(peak.memory_gb_max, peak.memory_limit_gb)} of memory in one"
            if peak is not None and peak.memory_gb_max
            else ""
        )
        yield "Workers", f"{plural(len(report.workers), 'worker')}{lost}{memory}"
    looked_up = report.cache_hits + report.cache_misses
    if looked_up:
        share = percent(report.cache_hits / looked_up)
        yield "Cache", f"{report.cache_hits:,} of {plural(looked_up, 'look-up')} hit ({share})"
    cost = cost_words(report.document.get("cost"))
    if cost:
        yield "Cost", cost
    if report.trace_id:
        yield "Trace", printable(report.trace_id)


def tasks_words(report: Report) -> str:
    """Say how many tasks there were, and what became of each of them."""
    counts = report.counts
    if not counts["tasks"]:
        return "none. No task was recorded."
    running, waiting, unknown = counts["tasks_running"], counts["tasks_waiting"], 0
    if report.status not in ("running", "lost"):
        running, waiting, unknown = 0, 0, report.unknown
    return _sentence(
        plural(counts["tasks"], "task"),
        _list(
            (counts["tasks_succeeded"], "succeeded"),
            (counts["tasks_failed"], "failed"),
            (counts["tasks_cancelled"], "cancelled"),
            (running, "running"),
            (waiting, "waiting"),
            (unknown, "with an unknown end"),
        ),
    )


def state_words(report: Report) -> Iterator[str]:
    """Yield what a reader must know before any number: unknown ends, and work that stands still."""
    count, waiting = report.unknown, report.counts["tasks_waiting"]
    if has_no_workers(report):
        text = f"{plural(waiting, 'task')} {'waits' if waiting == 1 else 'wait'}"
        yield f"{text}, and no worker is left to run {'it' if waiting == 1 else 'them'}."
    if not count:
        return
    whose = "its end" if count == 1 else "their end"
    yield f"What became of {plural(count, 'task')} is not known: the record stops before {whose}."


def has_no_workers(report: Report) -> bool:
    """Tasks wait, none runs, and every worker that came is gone."""
    alive = any(row.state not in ("lost", "removed") for row in report.workers)
    counts = report.counts
    return bool(counts["tasks_waiting"]) and not counts["tasks_running"] and not alive


def where_words(report: Report) -> str:
    """Say where a run took place."""
    provider, target = printable(report.provider), printable(report.target)
    environment = report.document["run"].get("environment")
    found = environment.get("host") if isinstance(environment, Mapping) else None
    host = printable(found) if isinstance(found, str) and found else ""
    if provider in ("local", "LocalCluster"):
        place = f"on {host} (LocalCluster)" if host else "LocalCluster"
        return place if target in ("", "existing") else f"{place}, target {target}"
    if provider in ("existing", "") and target in ("existing", ""):
        seen = sorted({row.host for row in report.workers if row.host})
        hosts = f", workers on {', '.join(seen[:3])}" if seen else ""
        more = f" and {len(seen) - 3:,} more" if len(seen) > 3 else ""
        return f"an existing cluster{printable(hosts)}{more}" if provider or target else ""
    return ", ".join(dict.fromkeys(filter(None, (provider, target))))


def cost_words(cost: object) -> str:
    """Say what was recorded of costs, apart from what was estimated."""
    if not isinstance(cost, Mapping):
        return ""
    rows: Any = cost.get("by_currency")
    parts: list[str] = []
    for currency, row in rows.items() if isinstance(rows, Mapping) else ():
        if isinstance(row, Mapping):
            said = _amount(row, str(currency))
            number = row.get("records")
            several = isinstance(number, int) and number > 1
            parts.append(f"{said} in {number} records" if several else said)
    estimate = cost.get("estimate")
    if isinstance(estimate, Mapping):
        parts.append(f"{_amount(estimate, str(estimate.get('currency') or ''))} by estimate")
    return "; ".join(filter(None, parts))


def _amount(row: Mapping[str, Any], currency: str) -> str:
    for name, span in (("total_hourly", "an hour"), ("total_monthly", "a month")):
        value = row.get(name)
        if isinstance(value, int | float):
            return f"{value:,.2f} {printable(currency)} {span}".replace("  ", " ")
    return ""


def memory_words(peak: float | None, limit: float | None) -> str:
    """Give a peak of memory with its limit."""
    if not peak or not limit:
        return gigabytes(peak)
    return f"{gigabytes(peak)} of {gigabytes(limit)} ({percent(peak / limit)})"


def size_words(size: object) -> str:
    """Give a number of bytes."""
    if not isinstance(size, int | float):
        return "-"
    return (
        f"{size:,.0f} B"
        if size < 1e4
        else f"{size / 1e3:,.0f} kB"
        if size < 1e6
        else (gigabytes(size / 1e9))
    )


def failures_words(groups: Sequence[FailureGroup]) -> str:
    """Count failures in the words of what failed."""
    number = {
        kind: sum(group.count for group in groups if group.kind == kind)
        for kind in ("task", "worker", "program")
    }
    parts = [
        f"{plural(number['task'], 'attempt')} failed" if number["task"] else "",
        f"{plural(number['worker'], 'worker')} lost" if number["worker"] else "",
        f"{number['program']:,} of the program or session" if number["program"] else "",
    ]
    causes = f", {len(groups):,} causes" if len(groups) > 1 else ""
    return ", ".join(filter(None, parts)) + causes


def failure_words(group: FailureGroup, limit: int) -> tuple[str, str]:
    """Return what failures of one cause said, and the values by which they differ."""
    message = group.message
    if group.kind == "worker" and group.count > 1:
        # The first part of the message is of one worker alone.
        message = message.partition("); ")[2] or message
    text, aside = messages_words(message, group.messages, limit)
    name = printable(group.failure_class)
    return (f"{name}: {text}" if text else name), aside


def messages_words(message: str, messages: Sequence[str], limit: int) -> tuple[str, str]:
    """Put messages into one: what they share, and in brackets the values by which they differ."""
    aside = ""
    if len(messages) > 1:
        found = pattern_of(messages)
        message = found.text
        values = list(dict.fromkeys(filter(None, map(printable, found.values))))
        if all(value.isdecimal() and len(value) < 20 for value in values):
            values.sort(key=int)
        shown = ", ".join(fit(value, 60) for value in values[:_MAX_VALUES])
        more = ", …" if len(messages) > _MAX_VALUES else ""
        aside = f"({len(messages):,} messages: {shown}{more})"
    text = printable(message[: 2 * limit])
    return (fit(text, limit) if cells(text) > limit else text), aside


def states_words(group: TaskGroup, *, live: bool) -> str:
    """Say what became of a name's tasks, where that is more than success."""
    unfinished = group.count - group.succeeded - group.failed - group.cancelled
    unusual = _list(
        (group.failed, "failed"),
        (group.cancelled, "cancelled"),
        (unfinished, "not finished" if live else "with an unknown end"),
        (group.retried, "retried" if group.retried == 1 else "attempts retried"),
        (
            group.lost,
            "attempt lost with a worker" if group.lost == 1 else "attempts lost with a worker",
        ),
        (group.recomputed, "computed again"),
    )
    if group.cut_short_s >= SHORT:
        unusual += f" ({seconds(group.cut_short_s)} in attempts lost or cancelled)"
    if not unusual:
        return ""
    return f"{group.succeeded:,} succeeded, {unusual}" if group.succeeded else unusual


def is_uneven(group: TaskGroup) -> bool:
    """Some work of a name came to nothing."""
    return bool(group.cancelled or group.retried or group.lost or group.count > group.succeeded)


def _sentence(whole: str, parts: str) -> str:
    return f"{whole}: {parts}" if parts else whole


def _list(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {word}" for count, word in counts if count)
