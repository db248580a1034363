"""Kinds of values, and what is derived from declarations in :mod:`scalable_runs.schema`.

A field is declared as ``name: Annotated[Kind, "What it means."]`` in a ``TypedDict``. A kind is a
type with the check that its values pass, and a unit where there is one.

Files of a run may be damaged, or written by another tool: any field may hold any JSON value. The
reader passes each record and document through :func:`clean`, so that a reader's callers find the
right type or null. A field that is not declared is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import FunctionType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    NotRequired,
    TypeAlias,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

#: Characters of a name, an id or a path; a longer one is not accepted.
MAX_TEXT: Final = 64 * 1024
#: Entries kept of a table whose keys are free.
MAX_ENTRIES: Final = 1_000
#: Numbers are smaller than this: sums of a million of them are still finite and quickly printed.
MAX_NUMBER: Final = 2**63


class Unit(NamedTuple):
    """A unit of UCUM."""

    symbol: str


class Note(NamedTuple):
    """A property of a field."""

    name: str


#: The field is in every record.
ALWAYS: Final = Note("always")
#: The text is an id or one of a fixed set: it cannot hold a secret and is not redacted.
FIXED: Final = Note("fixed")
#: A list of tables that was a table in runs of earlier versions.
ONCE_A_TABLE: Final = Note("once a table")


def text(value: Any) -> bool:
    """A name, an id or a path."""
    return value.__class__ is str and len(value) <= MAX_TEXT


def label(value: Any) -> bool:
    """A name that may be written as a number; it becomes a text."""
    return text(value) or integer(value)


def prose(value: Any) -> bool:
    """A message, a traceback or the output of a process: a text of any length."""
    return value.__class__ is str


def time(value: Any) -> bool:
    """An ISO 8601 time of this or the last millennium; parsing it may still fail."""
    return value.__class__ is str and "1" <= value < "3" and len(value) <= 40


def number(value: Any) -> bool:
    """A number, of any sign."""
    return value.__class__ in (int, float) and -MAX_NUMBER < value < MAX_NUMBER


def amount(value: Any) -> bool:
    """A number from zero up."""
    return value.__class__ in (int, float) and 0 <= value < MAX_NUMBER


def integer(value: Any) -> bool:
    """A whole number, of any sign."""
    return value.__class__ is int and -MAX_NUMBER < value < MAX_NUMBER


def count(value: Any) -> bool:
    """A whole number from zero up."""
    return value.__class__ is int and 0 <= value < MAX_NUMBER


def flag(value: Any) -> bool:
    """True or false."""
    return value.__class__ is bool


def texts(value: Any) -> bool:
    """A list of names."""
    return value.__class__ is list and all(map(text, value))


def counts(value: Any) -> bool:
    """A list of whole numbers from zero up."""
    return value.__class__ is list and all(map(count, value))


def numbers(value: Any) -> bool:
    """A list of numbers."""
    return value.__class__ is list and all(map(number, value))


def table(value: Any) -> bool:
    """A table of anything."""
    return value.__class__ is dict


def anything(value: Any) -> bool:
    """Any value."""
    return True


_SECONDS: Final = Unit("s")
_BYTES: Final = Unit("By")
_GIGABYTES: Final = Unit("GBy")
_CORES: Final = Unit("{cpu}")

Text: TypeAlias = Annotated[str, text]
#: One of a fixed set of texts.
Word: TypeAlias = Annotated[str, text, FIXED]
#: Hexadecimal digits of an OpenTelemetry id.
HexId: TypeAlias = Annotated[str, text, FIXED]
Label: TypeAlias = Annotated[str, label]
Prose: TypeAlias = Annotated[str, prose]
Time: TypeAlias = Annotated[str, time, FIXED]
Number: TypeAlias = Annotated[float, number]
Amount: TypeAlias = Annotated[float, amount]
Integer: TypeAlias = Annotated[int, integer]
Count: TypeAlias = Annotated[int, count]
Flag: TypeAlias = Annotated[bool, flag]
Texts: TypeAlias = Annotated[list[str], texts]
Counts: TypeAlias = Annotated[list[int], counts]
Numbers: TypeAlias = Annotated[list[float], numbers]
Table: TypeAlias = Annotated[dict[str, Any], table]
Anything: TypeAlias = Annotated[Any, anything]
Seconds: TypeAlias = Annotated[float, amount, _SECONDS]
#: Clocks of two hosts differ: such a duration may come out negative.
SignedSeconds: TypeAlias = Annotated[float, number, _SECONDS]
Bytes: TypeAlias = Annotated[int, amount, _BYTES]
Gigabytes: TypeAlias = Annotated[float, amount, _GIGABYTES]
Cores: TypeAlias = Annotated[float, amount, _CORES]

# -- derived from a declaration -------------------------------------------------------------------

Check: TypeAlias = Callable[[Any], bool]


class Each(NamedTuple):
    """A table whose keys are free and whose values are of one kind."""

    kind: Any


class Maybe(NamedTuple):
    """A value that may be null."""

    kind: Any


class Rows(NamedTuple):
    """A list of tables, or a table, as earlier versions wrote it."""

    kind: Any


class Row(NamedTuple):
    """A table with declared fields."""

    kinds: Mapping[str, Any]
    #: Required fields of the table.
    always: frozenset[str]


#: A check of one value, a table, a list of values of one kind (in a list), or a value or null.
Kind: TypeAlias = "Check | Row | Rows | list[Any] | Each | Maybe"


class Field(NamedTuple):
    """One field as declared.

    Attributes
    ----------
    type
        Its type without annotations: ``float``, a ``TypedDict``, …
    kind
        The check of its values.
    unit
        UCUM, or empty.
    meaning
        One sentence.
    always
        Whether it is in every record.
    redacted
        Whether its values pass the redactor, because they may be any text.
    """

    name: str
    type: Any
    kind: Kind
    unit: str
    meaning: str
    always: bool
    redacted: bool


@cache
def fields_of(declaration: type) -> Mapping[str, Field]:
    """Return the fields of a ``TypedDict``, in the order of its declaration."""
    hints = get_type_hints(declaration, include_extras=True)
    return {name: _field(name, hint, declaration) for name, hint in hints.items()}


@cache
def row_of(declaration: type) -> Row:
    """Return the checks of a table."""
    fields = fields_of(declaration).values()
    return Row(
        {field.name: field.kind for field in fields if field.kind is not anything},
        frozenset(field.name for field in fields if field.always),
    )


def nested_fields(declaration: type) -> Mapping[str, Field]:
    """Return all fields of a ``TypedDict``, also those of the tables in it.

    They are named `table.field`, `list[].field` and, where keys are free, `table.*.field`.
    """
    found: dict[str, Field] = {}
    for name, field in fields_of(declaration).items():
        found[name] = field
        below, path = field.type, f"{name}."
        if get_origin(below) in (list, dict):
            path = f"{name}[]." if get_origin(below) is list else f"{name}.*."
            below = get_args(below)[-1]
        if is_typeddict(below):
            found |= {path + inner: each for inner, each in nested_fields(below).items()}
    return found


def _field(name: str, hint: Any, declaration: Any) -> Field:
    always = declaration.__total__
    if get_origin(hint) is NotRequired:
        (hint,), always = get_args(hint), False
    base, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    kind = _kind(hint)
    units = [note.symbol for note in _notes(hint) if isinstance(note, Unit)]
    return Field(
        name,
        base,
        kind,
        units[0] if units else "",
        "".join(note for note in notes if isinstance(note, str)),
        always or ALWAYS in notes,
        FIXED not in _notes(hint) and kind not in _NO_TEXT and get_origin(base) is not Literal,
    )


def _notes(hint: Any) -> tuple[Any, ...]:
    """Return the metadata of a type, that of an optional one (``Annotated[…] | None``) too."""
    base, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    members = get_args(base) if get_origin(base) in (Union, UnionType) else ()
    return (*notes, *(note for member in members for note in _notes(member)))


def _kind(hint: Any) -> Kind:
    origin = get_origin(hint)
    if origin is Annotated:
        base, *notes = get_args(hint)
        if ONCE_A_TABLE in notes:
            return Rows(_kind(get_args(base)[0]))
        return next((note for note in notes if isinstance(note, FunctionType)), None) or _kind(base)
    if origin in (Union, UnionType):
        return Maybe(_kind(next(one for one in get_args(hint) if one is not type(None))))
    if origin is list:
        return [_kind(get_args(hint)[0])]
    if origin is dict:
        return Each(_kind(get_args(hint)[1]))
    if origin is Literal:
        return text
    if is_typeddict(hint):
        return row_of(hint)
    raise TypeError(f"a field cannot have the type {hint!r}")


_NO_TEXT: Final = (number, amount, integer, count, flag, counts, numbers, time)


def clean(record: dict[str, Any], row: Row) -> int:
    """Replace values of a wrong type by null; return how many there were."""
    wrong = 0
    kind_of = row.kinds.get
    for name, value in record.items():
        kind = kind_of(name)
        if kind is not None and value is not None:
            found, wrong_below = _cleaned(value, kind)
            wrong += wrong_below
            if found is not value:
                record[name] = found
    return wrong


def _cleaned(value: Any, kind: Kind) -> tuple[Any, int]:
    """Return the valid part of a value, or None, and the number of wrong values."""
    if isinstance(kind, Maybe):
        kind = cast("Kind", kind.kind)
    if isinstance(kind, Row):
        if value.__class__ is not dict:
            return None, 1
        return value, clean(value, kind)
    if isinstance(kind, Rows):
        if value.__class__ is dict:
            return value, 0
        kind = [kind.kind]
    if isinstance(kind, list):
        if value.__class__ is not list:
            return None, 1
        rows = [_cleaned(row, kind[0]) for row in value]
        return [row for row, _ in rows if row is not None], sum(wrong for _, wrong in rows)
    if isinstance(kind, Each):
        if value.__class__ is not dict:
            return None, 1
        entries = list(value.items())
        kept = {k: v for k, v in entries[:MAX_ENTRIES] if fits(v, kind.kind)}
        return kept, len(entries) - len(kept)
    if not kind(value):  # pyright: ignore[reportCallIssue] (no Maybe in a Maybe)
        return None, 1
    if kind is label and value.__class__ is not str:
        return str(value), 0
    return value, 0


def fits(value: Any, kind: Kind) -> bool:
    """Whether a value is of a kind; a table must have its required fields."""
    if isinstance(kind, Maybe):
        return value is None or fits(value, kind.kind)
    if isinstance(kind, Each):
        return value.__class__ is dict and all(fits(one, kind.kind) for one in value.values())
    if isinstance(kind, Row):
        return value.__class__ is dict and all(
            fits(value[name], below)
            if value.get(name) is not None
            else name not in kind.always or (isinstance(below, Maybe) and name in value)
            for name, below in kind.kinds.items()
        )
    if isinstance(kind, Rows):
        return value.__class__ is dict or fits(value, [kind.kind])
    if isinstance(kind, list):
        return value.__class__ is list and all(fits(row, kind[0]) for row in value)
    return kind(value)


class Shapes:
    """Cleans the records of one journal; used by one thread.

    Nearly all records of a journal have one of a few shapes (fields and their types). If a record
    has a valid shape, only numbers, lists and the time are checked.

    Parameters
    ----------
    row
        Declaration of the journal's records.
    """

    __slots__ = ("_known", "_row")

    #: Shapes kept.
    _MAX: Final = 256

    def __init__(self, row: Row) -> None:
        self._row = row
        self._known: dict[tuple[Any, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def clean(self, record: dict[str, Any], size: int) -> int:
        """Clean a record that was read from `size` bytes; return how much was wrong."""
        shape = (*record, *map(type, record.values()))
        known = self._known.get(shape)
        if known is not None and size <= MAX_TEXT:
            numbers, lists = known
            for name in numbers:
                if not 0 <= record[name] < MAX_NUMBER:
                    break
            else:
                if "1" <= record.get("timestamp", "") < "3" and all(
                    set(map(type, record[name])) <= _ONLY_TEXT for name in lists
                ):
                    return 0
        wrong = clean(record, self._row)
        if known is None and not wrong and len(self._known) < self._MAX:
            self._learn(record, shape)
        return wrong

    def _learn(self, record: dict[str, Any], shape: tuple[Any, ...]) -> None:
        if shape != (*record, *map(type, record.values())):
            return  # something of it was replaced
        numbers: list[str] = []
        lists: list[str] = []
        for name, value in record.items():
            kind = self._row.kinds.get(name)
            if kind is None or value.__class__ in (str, bool):
                continue
            if value.__class__ in (int, float):
                numbers.append(name)
            elif kind is texts:
                lists.append(name)
            else:
                return
        self._known[shape] = tuple(numbers), tuple(lists)


_ONLY_TEXT: Final[frozenset[type]] = cast("frozenset[type]", frozenset({str}))
