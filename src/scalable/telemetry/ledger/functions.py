"""The functions that tasks call, with what these call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from scalable import facts
from scalable.telemetry import semconv
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.tasks import TaskBook
from scalable_runs.redact import Redactor

#: Characters of a name or a value, of a source, and of the sources of all components.
MAX_NAME: Final = 1_000
MAX_SOURCE: Final = 16 * 1024
MAX_SOURCES: Final = 48 * 1024
#: Components, and texts on what is not covered.
MAX_COMPONENTS: Final = 500
MAX_NOT_COVERED: Final = 50

#: Attributes of the texts that a worker reports.
_TEXTS: Final[Mapping[str, str]] = {
    "function_name": semconv.FUNCTION_NAME,
    "module": semconv.FUNCTION_MODULE,
    "qualname": semconv.FUNCTION_QUALNAME,
    "file": semconv.CODE_FILE,
    "identity": semconv.FUNCTION_IDENTITY,
    "python": semconv.PYTHON_VERSION,
}
#: A text within the ``repr`` of a value, also one whose end was cut off.
_LITERAL: Final = re.compile(
    r"""b?(?:'(?:[^'\\]|\\.)*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$))""", re.DOTALL
)
_SHORT: Final = ("kind", "name", "digest", "detail")
#: Kinds of components whose detail is a value.
_VALUES: Final = ("constant", "closure", "default")


class Functions:
    """Writes functions of workers without secrets; called by the recorder's thread only."""

    def __init__(
        self,
        sink: SignalSink,
        tasks: TaskBook,
        name_of: Callable[[str], str],
        redact: Redactor,
    ) -> None:
        self._sink = sink
        self._tasks = tasks
        self._name_of = name_of
        self._redact = redact
        self._written: set[tuple[str, str]] = set()

    def take(self, fact: facts.UserEvent) -> None:
        """A worker has identified a function."""
        fields = fact.fields
        place = str(fields.get("function_name")), str(fields.get("identity"))
        if place in self._written:
            return
        self._written.add(place)
        attributes: dict[str, Any] = {
            semconv.RECORD: "function",
            semconv.WORKER_ADDRESS: fact.worker,
            semconv.WORKER_NAME: self._name_of(fact.worker),
        }
        for name, attribute in _TEXTS.items():
            text = fields.get(name)
            if isinstance(text, str) and text:
                attributes[attribute] = self._redact(text[:MAX_NAME])
        if isinstance(fields.get("line"), int):
            attributes[semconv.CODE_LINE] = fields["line"]
        if isinstance(fields.get("source"), str) and fields["source"]:
            attributes[semconv.FUNCTION_SOURCE] = self._redact(fields["source"][:MAX_SOURCE])
        attributes[semconv.FUNCTION_COMPONENTS] = self._components(fields.get("components"))
        sentences = fields.get("not_covered")
        if isinstance(sentences, list | tuple) and sentences:
            texts = [str(each)[:MAX_NAME] for each in cast("Any", sentences)[:MAX_NOT_COVERED]]
            attributes[semconv.FUNCTION_NOT_COVERED] = [self._redact(each) for each in texts]
        ids = self._sink.root
        if fact.key is not None:
            task = self._tasks.tasks.get(fact.key)
            attributes[semconv.TASK_KEY] = self._tasks.shown(fact.key)
            attributes[semconv.TASK_NAME] = self._tasks.name_of(fact.key)
            if fact.run_id is not None:
                ids = self._sink.ids(fact.key, fact.run_id, None if task is None else task.parent)
        self._sink.event(semconv.EVENT_FUNCTION, fact.time, attributes, ids)

    def _components(self, given: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        left = MAX_SOURCES
        for each in given[:MAX_COMPONENTS] if isinstance(given, list | tuple) else ():
            if not isinstance(each, Mapping):
                continue
            fields = cast("Mapping[str, Any]", each)
            kept = {name: str(fields.get(name) or "")[:MAX_NAME] for name in _SHORT}
            source = str(fields.get("source") or "")[:MAX_SOURCE]
            if len(source) <= left:
                kept["source"] = source
                left -= len(source)
            if kept["kind"] in _VALUES:
                kept["detail"] = self._value(kept["name"], kept["detail"])
            texts = {name: self._redact(text) for name, text in kept.items() if text}
            texts["digest"] = kept["digest"]
            found.append({**texts, "held": True} if fields.get("held") is True else {**texts})
        return found

    def _value(self, name: str, text: str) -> str:
        """A value, unless the name of its variable is that of a secret, and without its texts.

        What a constant is used for stands elsewhere in the code, so its name does not say whether
        its text is a secret. Its digest says whether it has changed.
        """
        variable = name.partition(" ")[0].rpartition(".")[2]
        return str(self._redact.value(_LITERAL.sub("'…'", text), variable))
