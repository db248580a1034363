"""Arguments and results of attempts: from what workers report to fields and to attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

import orjson

from scalable.facts.parameters import MAX_BYTES, MAX_DESCRIBED, Description, bounded
from scalable_runs.fields import MAX_NUMBER
from scalable_runs.redact import REDACTED, Redactor

#: Values sent as attributes of one signal, and characters of one.
MAX_ATTRIBUTES: Final = 20
MAX_CHARACTERS: Final = 256

_KINDS: Final = frozenset({"json", "object", "metric"})
_TEXTS: Final = ("type", "dtype", "description", "digest", "catalog")
_COUNTS: Final = ("length", "size_bytes")
#: What is told of a value whose name says that it is secret.
_NOT_SECRET: Final = ("name", "kind", "type", "shape")


def read_parameters(raw: bytes, redact: Redactor) -> list[Description]:
    """Read what a worker reports of the values of one attempt, without secrets.

    Parameters
    ----------
    raw : bytes
        A list of descriptions as JSON; a peer may send anything.
    redact : Redactor
        Also hides what has the name of a secret.
    """
    if not raw or len(raw) > 2 * MAX_BYTES:
        return []
    try:
        given: Any = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(given, list):
        return []
    items = cast("list[Any]", given)[: MAX_DESCRIBED + 1]
    entries = [_read(cast("Any", item), redact) for item in items if isinstance(item, dict)]
    return bounded([entry for entry in entries if entry])


def _read(item: Mapping[str, Any], redact: Redactor) -> Description:
    name, kind = item.get("name"), item.get("kind")
    if not isinstance(name, str) or kind not in _KINDS:
        return {}
    found: Description = {"name": name, "kind": kind}
    if "value" in item:
        found["value"] = item["value"]
    found |= {field: item[field] for field in _TEXTS if isinstance(item.get(field), str)}
    found |= {field: item[field] for field in _COUNTS if _is_count(item.get(field))}
    shape: Any = item.get("shape")
    if isinstance(shape, list) and all(map(_is_count, cast("list[Any]", shape))):
        found["shape"] = shape
    preview = item.get("preview")
    return _redacted(found, preview, redact)


def _redacted(found: Description, preview: Any, redact: Redactor) -> Description:
    name = found["name"]
    is_number = isinstance(found.get("value"), int | float)
    if not is_number and redact.value("a text", name) == REDACTED:
        found = {field: found[field] for field in _NOT_SECRET if field in found}
        return {**found, "name": redact.short(name), "value": REDACTED}
    if preview is not None:
        found["description"] = _text(redact.value(preview, name))
    for field in (*_TEXTS, "value"):
        if field in found:
            found[field] = redact.value(found[field], name if field == "value" else "")
    found["name"] = redact.short(name)
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_NUMBER


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def attributes_of(prefix: str, parameters: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of a span or a log record, named after the values: a few, each short.

    Parameters
    ----------
    prefix : str
        Begins the names of the attributes.
    parameters : list
        As a record has them, which may come from anywhere.
    """
    if not isinstance(parameters, list | tuple):
        return
    for entry in cast("Iterable[Any]", parameters[:MAX_ATTRIBUTES]):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if isinstance(name, str) and name and name != "…":
            yield f"{prefix}.{name}", _attribute(cast("Mapping[str, Any]", entry))


def _attribute(entry: Mapping[str, Any]) -> Any:
    value = entry.get("value")
    if isinstance(value, bool | int | float):
        return value
    text = _text(value) if "value" in entry else summary(entry)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def summary(entry: Mapping[str, Any]) -> str:
    """What is known of a value that is not given itself, in a few words."""
    parts = [str(entry.get("type") or "")]
    shape = entry.get("shape")
    if isinstance(shape, list):
        parts.append(" × ".join(map(str, cast("list[Any]", shape))))
    parts += [str(entry[field]) for field in ("dtype", "description") if entry.get(field)]
    return " ".join(filter(None, parts)) or "object"
