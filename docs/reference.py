"""Makes the tables of these pages from the code that declares what is in them.

``make docs`` runs this file; ``--check`` reports whether the pages are up to date.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from scalable.causes import CAUSES, DEATHS
from scalable.telemetry.instruments import INSTRUMENTS
from scalable_runs import fields, schema

DOCS: Final = Path(__file__).parent
_ROOT: Final = DOCS.parent

# The registry of names is beside the package, not in it.
sys.path.insert(0, str(_ROOT))

from semconv.model import Attribute, Signal, load  # noqa: E402


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _attributes() -> str:
    by_section: dict[str, list[Attribute]] = {}
    for attribute in load().attributes.values():
        by_section.setdefault(attribute.section, []).append(attribute)
    parts: list[str] = []
    for section, found in by_section.items():
        parts.append(f"#### {section}\n")
        rows = [(f"`{one.name}`", one.type, _meaning(one)) for one in found]
        parts.append(_table(("attribute", "type", "meaning"), rows) + "\n")
    return "\n".join(parts).rstrip()


def _meaning(attribute: Attribute) -> str:
    if not attribute.members:
        return attribute.brief
    return f"{attribute.brief} One of {', '.join(f'`{one}`' for one in attribute.members)}."


def _attribute_names(signal: Signal) -> str:
    """Attributes of a signal; those in bold are always there."""
    names = [f"**`{n}`**" if required else f"`{n}`" for n, required in signal.attributes.items()]
    return ", ".join(names) or "–"


def _spans() -> str:
    rows = [
        (f"`{span.name}`", span.kind.upper(), span.brief, _attribute_names(span))
        for span in load().of_type("span")
    ]
    return _table(("span", "kind", "meaning", "attributes"), rows)


def _events() -> str:
    rows = [
        (f"`{event.name}`", event.brief, _attribute_names(event))
        for event in load().of_type("event")
    ]
    return _table(("event", "meaning", "attributes"), rows)


def _metrics() -> str:
    series_name = _dashboards().series_name
    rows = [
        (
            f"`{metric.name}`",
            metric.kind,
            f"`{metric.unit}`",
            metric.brief,
            _attribute_names(metric),
            f"`{series_name(instrument)}`",
        )
        for metric, instrument in zip(load().of_type("metric"), INSTRUMENTS, strict=True)
    ]
    return _table(("metric", "kind", "unit", "meaning", "attributes", "in Prometheus"), rows)


def _renamed() -> str:
    rows = [
        (f"`{old}`", what.removesuffix("s"), f"`{new}`")
        for what, names in load().renamed.items()
        for old, new in names.items()
    ]
    return _table(("before", "is", "now"), rows)


def _dashboards() -> Any:
    path = _ROOT / "collector-config" / "dashboards.py"
    spec = importlib.util.spec_from_file_location("dashboards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    if isinstance(kind, (list, fields.Rows)):
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
        "spans": _spans,
        "events": _events,
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
