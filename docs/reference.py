"""Makes the tables of ``opentelemetry.md`` from the code that names and documents everything.

``make docs`` runs this file; ``--check`` says whether the page is in step.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from scalable.telemetry import semconv
from scalable.telemetry.instruments import INSTRUMENTS

PAGE: Final = Path(__file__).parent / "opentelemetry.md"
_ROOT: Final = PAGE.parents[1]

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
                    yield Name(section, constant[1], one, " ".join(said))
            said = []
        else:
            said = []


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
        told_apart = ", ".join(f"`{attribute}`" for attribute in instrument.attributes) or "–"
        rows.append(
            (
                f"`{instrument.name}`",
                instrument.kind,
                f"`{instrument.unit}`",
                instrument.description,
                told_apart,
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


#: What stands between the marks of the page, by the name of the mark.
TABLES: Final = {
    "spans": lambda: _named("span", spans()),
    "events": lambda: _named("event", events()),
    "attributes": _attributes,
    "metrics": _metrics,
}


def rendered(page: str) -> str:
    """The page with its tables as they ought to be."""
    for mark, make in TABLES.items():
        begin, end = f"<!-- {mark}: made by `make docs` -->\n", f"<!-- end of {mark} -->"
        head, found, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE.name} has no marks for {mark}: {begin.strip()} … {end}")
        page = f"{head}{begin}{make()}\n{end}{tail}"
    return page


def main(arguments: Sequence[str]) -> int:
    """Write the page; with ``--check`` only say whether it is out of step."""
    page = PAGE.read_text()
    wanted = rendered(page)
    if page == wanted:
        return 0
    if "--check" in arguments:
        print(f"{PAGE} is out of step with the code: `make docs` writes it anew", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
