"""Renders as Markdown, for a pull request, an issue or an appendix.

The text is that of GitHub and CommonMark; whatever was recorded is escaped, so that a name or a
message is shown as it is and makes no link, image or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from scalable.analysis import units
from scalable.analysis.report import Report
from scalable.analysis.report_sections import card_outline
from scalable.analysis.sections import (
    Block,
    Column,
    Facts,
    Frames,
    Item,
    Message,
    Outline,
    Quote,
    Section,
    Sentence,
    Table,
    Value,
)
from scalable.analysis.terminal import terminal_line, terminal_lines

_MAX_MESSAGE: Final = 800
_SPECIAL: Final = re.compile(r"([\\`*_\[\]|<>~&$])")
#: What would begin a list, a heading or a quotation at the beginning of a line.
_LEADING: Final = re.compile(r"^(\d*)([.)](?=\s|$)|[-+=#](?=\s|$)|(?<=^)#+)")


def render_markdown(report: Report) -> str:
    """Return the card of a run: a report on one page."""
    return outline_markdown(card_outline(report))


def outline_markdown(outline: Outline) -> str:
    """Return an outline as Markdown that ends with a newline."""
    return "\n".join(_squeezed(_lines(outline))) + "\n"


def _squeezed(lines: Iterator[str]) -> Iterator[str]:
    """Leave out blank lines that follow another, and those at the end."""
    waiting, begun = False, False
    for line in lines:
        if not line:
            waiting = begun
            continue
        if waiting:
            yield ""
        yield line
        waiting, begun = False, True


def _lines(outline: Outline) -> Iterator[str]:
    status = f": {outline.status}{outline.after}" if outline.status else ""
    yield f"# {_escaped(outline.title + status)}"
    for section in outline.sections:
        yield ""
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    if section.title:
        aside = f" ({section.aside})" if section.aside else ""
        yield f"## {_escaped(section.title + aside)}"
        yield ""
    for block in section.blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Sentence():
            yield from _sentence(block)
        case Message():
            yield _message(block)
            yield ""
        case Quote():
            yield from _code(block.lines)
        case Frames():
            lines: list[str] = []
            for frame in block.frames:
                lines.append(frame.where(block.program))
                lines += [f"    {frame.code}"] if frame.code else []
            yield from _code(lines)
        case Facts():
            yield from (
                f"- **{_escaped(fact.label)}**: {_escaped(fact.text)}" for fact in block.facts
            )
            yield ""
        case Table():
            yield from _table(block)
        case Item():
            yield from _item(block)


def _sentence(sentence: Sentence) -> Iterator[str]:
    text = _escaped(sentence.text)
    if sentence.role == "command":
        yield from _code((sentence.text,))
    elif sentence.role in ("bullet", "evidence"):
        yield f"- {text}"
    elif sentence.role == "advice":
        yield f"**What to do:** {text}"
        yield ""
    else:
        yield f"**{text}**" if sentence.role == "lead" else text
        yield ""


def _message(message: Message) -> str:
    text = message.text
    if len(text) > _MAX_MESSAGE:
        text = f"{text[: _MAX_MESSAGE - 1]}…"
    return _escaped(f"{message.before}{text}{message.after}")


def _item(item: Item) -> Iterator[str]:
    title = _escaped(item.title) if isinstance(item.title, str) else _message(item.title)
    label = f"{_escaped(item.label)}: " if item.label else ""
    mark = f"{_escaped(item.mark)} " if item.mark else ""
    yield ""
    yield f"### {mark}{label}{title}"
    yield ""
    for block in item.blocks:
        yield from _block(block)


def _table(block: Table) -> Iterator[str]:
    yield ""
    yield _row([_escaped(column.title) for column in block.columns])
    yield _row(["---" if column.kind == "text" else "---:" for column in block.columns])
    for row in block.rows:
        pairs = zip(row.values, block.columns, strict=True)
        cells = [_cell(value, column) for value, column in pairs]
        if row.note is not None:
            cells[block.widest] += f" ({_escaped(row.note.text)})"
        yield _row(cells)
    yield ""


def _cell(value: Value, column: Column) -> str:
    return _escaped(units.formatted(value, column.kind))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(lines: tuple[str, ...] | list[str]) -> Iterator[str]:
    """A block of code whose fence is longer than any within."""
    shown = [one for line in lines for one in terminal_lines(line)]
    longest = max((len(run) for line in shown for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield ""
    yield fence
    yield from shown
    yield fence
    yield ""


def _escaped(text: str) -> str:
    """Return a recorded text that Markdown shows as it is, on one line."""
    line = _SPECIAL.sub(r"\\\1", terminal_line(text))
    return _LEADING.sub(r"\1\\\2", line)
