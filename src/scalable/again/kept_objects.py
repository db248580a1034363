"""Puts arguments and results that the record does not have whole into the data catalog."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any, Final

from scalable.again.pickled import pickled
from scalable.again.settings import KeepSettings
from scalable.catalog import Catalog
from scalable.catalog.recording import place_here
from scalable.common.forks import unlocked_in_forks
from scalable.instrumentation import user_events
from scalable.instrumentation.task_calls import MISSING, TaskCall

#: Begins the names of what is kept.
FOLDER: Final = "objects"
_HEX: Final = 32
#: Names of contents that this process has put there.
_REMEMBERED: Final = 1_000


class KeptObjects:
    """Keeps values of one run; called by the threads that run tasks.

    A value is pickled, which runs code of its class: that is why this has to be asked for.
    """

    def __init__(self, settings: KeepSettings) -> None:
        self._most = settings.objects
        self._lock = unlocked_in_forks(threading.Lock())
        self._known: OrderedDict[str, None] = OrderedDict()

    def __call__(self, value: Any) -> str | None:
        """Return the name of a value in the catalog; None if it is too large, or cannot be kept."""
        if value is MISSING or isinstance(value, TaskCall):
            return None
        try:
            data = pickled(value, self._most)
        except Exception:  # it is too large, or cannot be pickled: its description says what it is
            return None
        try:
            name = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:_HEX]}.pickle"
            if not self._is_known(name):
                Catalog(place_here()).put_bytes(data, name=name, kind="object")
                self._remember(name)
            return name
        except Exception as error:
            user_events.guard.failed("kept_object", error)
            return None

    def _is_known(self, name: str) -> bool:
        with self._lock:
            return name in self._known

    def _remember(self, name: str) -> None:
        with self._lock:
            self._known[name] = None
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
