"""The context of a task in the environment of the processes that its code starts, where asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Final

from scalable.common.carriers import inject
from scalable.common.environment_carriers import variable_of
from scalable.common.guard import Guard
from scalable.facts.identity import carried
from scalable.facts.protocol import ENVIRONMENT
from scalable.instrumentation.patching import Patch
from scalable.instrumentation.propagation import current_attempt

#: Errors of this module, in any run of the process.
guard: Final = Guard()


def _with_context(given: Mapping[str, str] | None) -> dict[str, str]:
    """An environment with the current context; what the code itself has set stays."""
    environ = dict(os.environ if given is None else given)
    fields: dict[str, Any] = {}
    inject(fields)
    for field, value in fields.items():
        name = variable_of(field)
        # A variable that this process was started with is about another span.
        if environ.get(name) == os.environ.get(name):
            environ[name] = str(value)
    return environ


def _carrying(original: Callable[..., Any]) -> Callable[..., Any]:
    def __init__(self: Any, args: Any, *more: Any, **options: Any) -> None:  # noqa: N807
        try:
            attempt = current_attempt.get()
            asked = attempt is not None and carried(attempt.carrier).get(ENVIRONMENT)
            if asked and not more:
                options["env"] = _with_context(options.get("env"))
        except BaseException as error:
            guard.failed("child_environment", error)
        original(self, args, *more, **options)

    return __init__


#: Applied by each worker: most code starts processes with this class.
popen_patch: Final = Patch(subprocess.Popen, "__init__", _carrying)
