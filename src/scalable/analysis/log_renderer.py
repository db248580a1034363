"""Lines of a run's logs as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from scalable.analysis.layout import cells, fit, pad, paint
from scalable.analysis.log_lines import LogLine
from scalable.analysis.terminal import terminal_line, terminal_text

#: Columns of what printed a line.
_WHO: Final = 24
_TAG: Final = 8
_ERROR: Final = 17
_WARNING: Final = 13


def render_log(line: LogLine, *, color: bool) -> str:
    """Return a line of the logs as lines of text, each with time, origin and kind."""
    moment = datetime.fromtimestamp(line.time, UTC)
    time = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
    who = pad(_who(line), _WHO)
    tag, style = _tag(line)
    tag = pad(tag, _TAG)
    if color:
        time = paint(time, "dim")
        tag = paint(tag, style) if style else tag
    prefix = f"{time} {who} {tag} "
    texts = [_shown(text) for text in line.text.rstrip("\n").split("\n")]
    if line.logger:
        texts[0] = f"{terminal_line(line.logger)}: {texts[0]}"
    if line.left_out:
        texts.insert(0, f"[... {line.left_out:,} characters left out ...]")
    return "".join(f"{prefix}{text}".rstrip() + "\n" for text in texts)


def _who(line: LogLine) -> str:
    if line.task_id is not None:
        number = f" #{line.attempt}" if line.attempt is not None and line.attempt > 1 else ""
        name = terminal_line(line.task_id)
        return fit(name, _WHO - cells(number), keep="ends") + number
    if line.worker is not None:
        return fit(f"worker {terminal_line(line.worker)}", _WHO, keep="ends")
    logger = line.logger or ""
    for part in ("scheduler", "nanny"):
        if logger.startswith(f"distributed.{part}"):
            return part
    return "run" if line.source == "failure" else "cluster"


def _tag(line: LogLine) -> tuple[str, str]:
    """Return the kind of a line, and its colour."""
    if line.source in ("log", "failure"):
        severity = line.severity or 0
        style = "red" if severity >= _ERROR else "yellow" if severity >= _WARNING else ""
        return terminal_line(line.level or "log"), style
    if line.source == "worker":
        return line.stream or "output", "dim"
    return terminal_line(line.stream or "output"), "yellow" if line.stream == "stderr" else ""


def _shown(text: str) -> str:
    """Return one line as a terminal would show it at last: a progress bar returns to its begin."""
    parts = [part for part in text.split("\r") if part.strip()]
    return terminal_text(parts[-1] if parts else "").rstrip()
