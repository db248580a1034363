"""What a text says, apart from how it looks: sections of typed tables and of sentences.

:mod:`~scalable.analysis.report_sections` and :mod:`~scalable.analysis.diagnosis_sections` make an
:class:`Outline`, a renderer lays it out. Texts are as they were recorded: a renderer makes them
safe for its medium.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from scalable.analysis.frames import Frame

Tone: TypeAlias = Literal["", "good", "active", "warning", "bad", "critical", "quiet"]

#: How a value is written. All kinds but `text` are set to the right.
Kind: TypeAlias = Literal[
    "text", "ordinal", "count", "number", "seconds", "gigabytes", "bytes", "share"
]

Role: TypeAlias = Literal[
    "lead",  # what a reader must know first
    "text",
    "prose",  # paragraphs of text
    "detail",
    "advice",  # what to do
    "consequence",
    "evidence",
    "bullet",
    "aside",  # about what a table or a list leaves out
    "note",  # what a reader has to know to take the numbers as they are meant
    "command",  # a command to copy
    "line",  # stays on one line
]


class Sentence(NamedTuple):
    """One or more sentences."""

    text: str
    role: Role = "text"
    tone: Tone = ""


class Message(NamedTuple):
    """The message of a failure; a renderer may shorten only `text`."""

    text: str
    before: str = ""
    after: str = ""


class Quote(NamedTuple):
    """Lines that a program wrote, blanks kept."""

    lines: tuple[str, ...]
    is_output: bool = False


class Frames(NamedTuple):
    """Frames of a traceback, the innermost last."""

    frames: tuple[Frame, ...]
    #: File name of the program; see :meth:`Frame.where`.
    program: str
    tone: Tone = ""


class Fact(NamedTuple):
    """A label and what it is the label of."""

    label: str
    text: str
    #: It is there to be copied, and stays on one line.
    is_whole: bool = False


class Facts(NamedTuple):
    """A list of facts."""

    facts: tuple[Fact, ...]


class Column(NamedTuple):
    """A column of a table."""

    title: str
    kind: Kind = "text"
    #: Columns are left out where there is no room, 1 first; 0 is never left out.
    drop: int = 0


Value: TypeAlias = str | float | None


class Row(NamedTuple):
    """A row of a table; None is a value that is not known or does not apply."""

    values: tuple[Value, ...]
    #: A sentence that belongs to the row.
    note: Sentence | None = None


class Table(NamedTuple):
    """A table with typed columns."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    #: The column with the longest texts: it gives way where a row is too wide.
    widest: int = 0


class Item(NamedTuple):
    """An item of a list, with what belongs to it."""

    mark: str
    title: str | Message
    blocks: tuple[Block, ...]
    tone: Tone = ""
    #: How serious it is; written before the title.
    label: str = ""


Block: TypeAlias = "Sentence | Message | Quote | Frames | Facts | Table | Item"


class Section(NamedTuple):
    """Blocks under a title."""

    blocks: tuple[Block, ...]
    title: str = ""
    #: About the section as a whole, beside its title.
    aside: str = ""


class Outline(NamedTuple):
    """A whole text."""

    title: str
    sections: tuple[Section, ...]
    #: The state of what is described, and what follows it.
    status: str = ""
    tone: Tone = ""
    after: str = ""
