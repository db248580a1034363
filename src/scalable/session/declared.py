"""What the manifest declares for functions, applied to them; imported by workers too."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask.base import normalize_token

from scalable.cache.store import KEEPS_ITSELF

logger = logging.getLogger("scalable")


@dataclass(frozen=True, slots=True)
class Declared:
    """What the manifest declares for functions of one name."""

    component: str | None = None
    cache: bool = False
    outputs: tuple[str, ...] = ()

    def wrap(self, function: Any) -> Any:
        """Return a function that caches its results and keeps its outputs as declared."""
        if self.cache or self.outputs:
            return DeclaredTask(function, self.cache, self.outputs)
        return function


class DeclaredTask:
    """A function with what is declared for it; called in the thread of a task."""

    def __init__(self, function: Any, cache: bool, outputs: Sequence[str]) -> None:
        self._function = function
        self._cache = cache
        self._outputs = tuple(outputs)
        functools.update_wrapper(self, function, updated=())
        if cache:
            setattr(self, KEEPS_ITSELF, True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function, or take its result from the cache; then put its outputs away."""
        from scalable.cache.cacheable import cacheable

        function = cacheable(self._function) if self._cache else self._function
        result = function(*args, **kwargs)
        for output in self._outputs:
            _put(output)
        return result

    def __dask_tokenize__(self) -> Any:
        return normalize_token((type(self).__name__, self._function, self._cache, self._outputs))


def _put(output: str) -> None:
    """Put an output into the catalog; a task that has succeeded does not fail for it."""
    from scalable import catalog
    from scalable.catalog.errors import redactor
    from scalable.records import record_artifact

    try:
        catalog.put(output, kind="output")
    except Exception as error:
        text = redactor()(f"the output {output} is not in the catalog: {error}")
        logger.warning("scalable: %s", text)
        record_artifact(output, kind="output", digest=False)
