"""Makes the tables of these pages from the code that declares what is in them.

``make docs`` runs this file; ``--check`` reports whether the pages are up to date.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from scalable.causes import CAUSES, DEATHS
from scalable.telemetry import semconv
from scalable.telemetry.instruments import INSTRUMENTS
from scalable_runs import fields, schema

DOCS: Final = Path(__file__).parent
_ROOT: Final = DOCS.parent

#: Constants that name no attributes.
_NO_ATTRIBUTES: Final = ("EVENT_", "METRIC_", "SCOPE_")


_ATTRIBUTE: Final = r"[a-z_]+(\.[a-z_]+)+"


class Name(NamedTuple):
    """A constant of semconv.py: its section, its own name, its value, what is said about it."""

    section: str
    constant: str
    value: str
    meaning: str


def names() -> Iterator[Name]:
    """Every documented name, in the order of the file."""
    section = ""
    said: list[str] = []
    for line in Path(semconv.__file__).read_text().splitlines():
        if heading := re.match(r"# -- (.*?) -+$", line):
            section, said = heading[1], []
        elif line.startswith("#:"):
            said.append(line.removeprefix("#:").strip())
        elif constant := re.match(r"([A-Z][A-Z_]*): Final = ", line):
            value = getattr(semconv, constant[1])
            values = value.values() if isinstance(value, dict) else [value]
            for one in values:
                if isinstance(one, str):
                    yield Name(section, constant[1], one, " ".join(said) or _field_meaning(one))
            said = []
        else:
            said = []


_UNITS: Final = {"s": "In seconds.", "By": "In bytes."}


def _field_meaning(attribute: str) -> str:
    """What the field means that an attribute becomes."""
    for event_type, found in semconv.RECORD_MAP.fields.items():
        if attribute in found:
            declaration = schema.DECLARATION_OF[schema.FILE_OF[event_type]]
            field = fields.nested_fields(declaration)[found[attribute]]
            return f"{field.meaning} {_UNITS.get(field.unit, '')}".rstrip()
    return ""


def attributes() -> list[Name]:
    """Names of attributes, each once."""
    found: dict[str, Name] = {}
    for name in names():
        if not name.constant.startswith(_NO_ATTRIBUTES) and re.fullmatch(_ATTRIBUTE, name.value):
            found.setdefault(name.value, name)
    return list(found.values())


def spans() -> list[Name]:
    """Names of spans, with a place for what differs."""
    return [name for name in names() if name.constant.startswith("SPAN_") and "{" in name.value]


def events() -> list[Name]:
    """Names of events, of log records and of spans."""
    return [name for name in names() if name.constant.startswith("EVENT_")]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _attributes() -> str:
    by_section: dict[str, list[Name]] = {}
    for name in attributes():
        by_section.setdefault(name.section, []).append(name)
    parts: list[str] = []
    for section, found in by_section.items():
        title = re.sub(r" \(.*\)$", "", section)
        parts.append(f"#### {title[:1].upper()}{title[1:]}\n")
        rows = [(f"`{name.value}`", name.meaning) for name in found]
        parts.append(_table(("attribute", "meaning"), rows) + "\n")
    return "\n".join(parts).rstrip()


def _metrics() -> str:
    series_name = _dashboards().series_name
    rows: list[tuple[str, ...]] = []
    for instrument in INSTRUMENTS:
        attributes = ", ".join(f"`{attribute}`" for attribute in instrument.attributes) or "–"
        rows.append(
            (
                f"`{instrument.name}`",
                instrument.kind,
                f"`{instrument.unit}`",
                instrument.description,
                attributes,
                f"`{series_name(instrument)}`",
            )
        )
    return _table(("metric", "kind", "unit", "meaning", "attributes", "in Prometheus"), rows)


def _dashboards() -> Any:
    path = _ROOT / "collector-config" / "dashboards.py"
    spec = importlib.util.spec_from_file_location("dashboards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _named(head: str, found: Sequence[Name]) -> str:
    return _table((head, "meaning"), [(f"`{name.value}`", name.meaning) for name in found])


_KINDS: Final[Mapping[Any, str]] = {
    fields.text: "text",
    fields.label: "text",
    fields.prose: "long text",
    fields.time: "time",
    fields.number: "number",
    fields.amount: "number",
    fields.integer: "whole number",
    fields.count: "whole number",
    fields.flag: "true, false",
    fields.texts: "texts",
    fields.counts: "whole numbers",
    fields.numbers: "numbers",
    fields.table: "table",
    fields.anything: "any",
}


def _kind(field: fields.Field) -> str:
    kind: Any = field.kind.kind if isinstance(field.kind, fields.Maybe) else field.kind
    if isinstance(kind, (fields.Row, fields.Each)):
        return "table"
    if isinstance(kind, list):
        return "tables"
    name = _KINDS[kind]
    if name == "any" and field.type is int:
        name = "whole number"
    if name == "text" and not field.redacted:
        name = "word"
    return f"{name}, {field.unit}" if field.unit else name


def _fields(declaration: type[Any], *without: str) -> str:
    """A table of the fields of a file, without those of every record."""
    rows: list[tuple[str, ...]] = []
    for name, field in fields.nested_fields(declaration).items():
        if name in without:
            continue
        meaning = field.meaning
        if get_origin(field.type) is Literal:
            meaning += f" One of {', '.join(f'`{one}`' for one in get_args(field.type))}."
        always = r" \*" if field.always else ""
        rows.append((f"`{name}`{always}", _kind(field), meaning))
    return _table(("field", "kind", "meaning"), rows)


def _all_fields() -> str:
    common = fields.fields_of(schema.AnyRecord)
    parts = [f"## Every record\n\n{_fields(schema.AnyRecord)}\n"]
    declared: dict[str, type[Any]] = dict(schema.DECLARATION_OF)
    declared |= {schema.RUN: schema.RunDocument, schema.OWNER: schema.Owner}
    declared |= {schema.SUMMARY: schema.SummaryDocument}
    for file, declaration in declared.items():
        without = common if file in schema.DECLARATION_OF else ()
        parts.append(f"## {file}\n\n{_fields(declaration, *without)}\n")
    return "\n".join(parts).rstrip()


def _causes() -> str:
    causes = [(f"`{one.name}`", one.meaning, one.remedy) for one in CAUSES.values()]
    deaths = [(rule.evidence, f"`{rule.cause}`") for rule in DEATHS]
    return (
        _table(("cause", "means", "what usually helps"), causes)
        + "\n\nA lost worker is judged by the first of these that holds:\n\n"
        + _table(("because", "cause"), deaths)
    )


#: The text between the marks of each page, by the name of the mark.
TABLES: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "opentelemetry.md": {
        "spans": lambda: _named("span", spans()),
        "events": lambda: _named("event", events()),
        "attributes": _attributes,
        "metrics": _metrics,
    },
    "fields.md": {"fields": _all_fields},
    "diagnose.md": {"causes": _causes},
}


def rendered(name: str) -> str:
    """A page with its tables up to date."""
    page = (DOCS / name).read_text()
    for mark, make in TABLES[name].items():
        begin, end = f"<!-- {mark}: made by `make docs` -->\n", f"<!-- end of {mark} -->"
        head, found, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{name} has no marks for {mark}: {begin.strip()} … {end}")
        page = f"{head}{begin}{make()}\n{end}{tail}"
    return page


def main(arguments: Sequence[str]) -> int:
    """Write the pages; with ``--check`` only report which are out of date."""
    outdated = {
        DOCS / name: text
        for name in TABLES
        if (text := rendered(name)) != (DOCS / name).read_text()
    }
    for path, text in outdated.items():
        if "--check" in arguments:
            print(f"{path} is out of date: `make docs` updates it", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {path}")
    return int(bool(outdated) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
