"""Generates Python's constants and the table of metrics from the registry.

``make semconv`` runs this file; ``--check`` reports whether the files are up to date. Where the
program ``weaver`` is installed, it checks the registry as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from semconv.model import REGISTRY, Attribute, Registry, load

ROOT: Final = Path(__file__).parents[1]
_PACKAGE: Final = ROOT / "src" / "scalable" / "telemetry"

_NOTE: Final = "Generated from semconv/ by `make semconv`: change the YAML there, not this file."


def constants(registry: Registry) -> str:
    """Return the text of semconv.py."""
    parts = [
        f'''"""Names of attributes, events and spans, and the field that each attribute becomes.

{_NOTE}

Metrics are in :mod:`scalable.telemetry.instruments`. ``dask.*`` is what Dask did, ``scalable.*``
what the run is; the rest are OpenTelemetry's semantic conventions. There is none for workflows or
tasks yet, hence the namespaces of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import SpanKind

#: Name of the scope of the run's own signals.
SCOPE_NAME: Final = "scalable"
#: Version of OpenTelemetry's semantic conventions that is followed.
SCHEMA_URL: Final = "{registry.schema_url}"
#: The task name for all names beyond a limit.
OTHER_NAMES: Final = "other"
#: The class of exception for all classes beyond a limit, as OpenTelemetry defines it.
OTHER_ERRORS: Final = "_OTHER"
'''
    ]
    sections: dict[str, list[Attribute]] = {}
    for attribute in registry.attributes.values():
        sections.setdefault(attribute.section, []).append(attribute)
    for section, found in sections.items():
        parts.append(_heading(section) + "".join(map(_constant, found)))
    parts.append(_heading("Attributes that stay in the process"))
    parts[-1] += "".join(map(_constant, registry.internal.values()))
    names = ", ".join(found.constant for found in registry.internal.values())
    parts.append(_wrapped("#: Never sent.", f"INTERNAL: Final = frozenset({{{names}}})"))
    parts.append(_heading("Types"))
    names = ", ".join(it.constant for it in registry.attributes.values() if it.type == "double")
    comment = "#: Sent as floating-point numbers, also where a whole number was given."
    parts.append(_wrapped(comment, f"DOUBLES: Final = frozenset({{{names}}})"))
    parts.append(_heading("Events"))
    for event in registry.of_type("event"):
        parts.append(_comment(event.brief) + f'{event.constant}: Final = "{event.name}"\n')
    parts.append(_heading("Spans"))
    for span in registry.of_type("span"):
        parts.append(_comment(span.brief) + f'{span.constant}: Final = "{span.name}"\n')
        if span.kind != "internal":
            kind = span.constant.replace("SPAN_", "KIND_")
            parts.append(f"{kind}: Final = SpanKind.{span.kind.upper()}\n")
    parts.append(_heading("Fields of the run directory"))
    parts.append(_fields([*registry.attributes.values(), *registry.internal.values()]))
    parts.append(_heading("Names of earlier versions"))
    for what, names_of in registry.renamed.items():
        parts.append(_table(f"RENAMED_{what.upper()}", names_of))
    return "".join(parts)


def _heading(title: str) -> str:
    return f"\n# -- {title} ".ljust(99, "-") + "\n\n"


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, 97, break_long_words=False, break_on_hyphens=False)
    return "".join(f"#: {line}\n" for line in lines)


def _constant(attribute: Attribute) -> str:
    return _comment(attribute.brief) + f'{attribute.constant}: Final = "{attribute.name}"\n'


def _wrapped(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def _fields(attributes: Iterable[Attribute]) -> str:
    lines = [
        "#: For each attribute that becomes a field of a record, the field's name. The field may",
        "#: be of the record or of its `details`; `task.state` is one of tasks alone.",
        "FIELDS: Final[Mapping[str, tuple[str, ...]]] = {",
    ]
    for attribute in attributes:
        if attribute.fields:
            lines.append(f"    {attribute.constant}: {_tuple(map(_quoted, attribute.fields))},")
    return _wrapped(*lines, "}")


def _table(constant: str, names: Mapping[str, str]) -> str:
    lines = [f"{constant}: Final[Mapping[str, str]] = {{"]
    lines += [f'    "{old}": "{new}",' for old, new in names.items()]
    return _wrapped(*lines, "}")


def metrics(registry: Registry) -> str:
    """Return the text of instruments.py."""
    parts = [
        f'''"""The table of metrics.

{_NOTE}
"""

from __future__ import annotations

from typing import Final

from scalable.telemetry import semconv
from scalable.telemetry.instrument import TASK_BOUNDS, Instrument

'''
    ]
    for metric in registry.of_type("metric"):
        attributes = [f"semconv.{registry.attributes[name].constant}" for name in metric.attributes]
        arguments = [
            f'"{metric.name}"',
            f'"{metric.kind}"',
            f'"{metric.unit}"',
            _literal(metric.brief),
        ]
        if attributes:
            arguments.append(_tuple(attributes))
        if metric.kind == "histogram":
            arguments.append("bounds=TASK_BOUNDS")
        parts.append(f"{metric.constant}: Final = Instrument({', '.join(arguments)})\n")
    names = ", ".join(metric.constant for metric in registry.of_type("metric"))
    parts.append(
        f"\n#: The table, in the order of the documentation.\nINSTRUMENTS: Final = ({names})\n"
    )
    return "".join(parts)


def _tuple(items: Iterable[str]) -> str:
    found = list(items)
    return f"({found[0]},)" if len(found) == 1 else f"({', '.join(found)})"


def _quoted(text: str) -> str:
    return f'"{text}"'


def _literal(text: str) -> str:
    lines = textwrap.wrap(text, 80, drop_whitespace=False)
    return " ".join(f'"{line}"' for line in lines)


#: What is generated, by file.
FILES: Final[Mapping[Path, Callable[[Registry], str]]] = {
    _PACKAGE / "semconv.py": constants,
    _PACKAGE / "instruments.py": metrics,
}


def rendered(path: Path) -> str:
    """Return a file as it should be, formatted."""
    text = FILES[path](load())
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(path), "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    """Write the files; with ``--check`` only report which are out of date."""
    outdated = {path: text for path in FILES if (text := rendered(path)) != path.read_text()}
    for path, text in outdated.items():
        if "--check" in arguments:
            print(f"{path} is out of date: `make semconv` updates it", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {path}")
    weaver = shutil.which("weaver")
    if weaver is not None:
        checked = subprocess.run([weaver, "registry", "check", "-r", str(REGISTRY)], check=False)
        return checked.returncode
    return int(bool(outdated) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
