"""Keeps the results of tasks, and takes what is kept, where tasks run."""

from __future__ import annotations

import json
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

from distributed import get_worker

from scalable.again.code_digests import CodeDigests
from scalable.again.fingerprints import (
    Fingerprint,
    NotKeptError,
    fingerprint,
    key_of,
    result_digest,
)
from scalable.again.kept_files import FileState, changed_file, differs_key, files_of, states_of
from scalable.again.settings import KeepSettings
from scalable.cache.store import KEEPS_ITSELF, Found, Store, TooLargeError, cache_directory
from scalable.common.forks import unlocked_in_forks
from scalable.instrumentation import user_events
from scalable.instrumentation.propagation import current_attempt, run_of
from scalable.instrumentation.signatures import name_of
from scalable.instrumentation.task_calls import TaskCall

logger = logging.getLogger("scalable")

#: Bytes of what is kept beside a result.
_MAX_ABOUT: Final = 32 * 1024
#: Artifacts of one task that are recorded again when its result is reused.
_MAX_ARTIFACTS: Final = 100


class _Wanted(NamedTuple):
    """A result that a task asks for."""

    key: str
    name: str
    identity: str
    fingerprint: Fingerprint
    #: The files among its arguments before it ran.
    files: Mapping[str, FileState | None]

    def fields(self) -> dict[str, Any]:
        """Fields of its record."""
        return {
            "function_name": self.name,
            "key_digest": self.key,
            "function_identity": f"sha256:{self.identity}",
            "arguments_digest": self.fingerprint.digest,
            "arguments": dict(self.fingerprint.arguments),
        }


class KeptResults:
    """Looks up and keeps the results of the tasks of one run.

    Called by the threads that run tasks; see :func:`scalable.instrumentation.task_calls.around`.
    """

    def __init__(self, settings: KeepSettings) -> None:
        self._settings = settings
        self._codes = CodeDigests()
        self._lock = unlocked_in_forks(threading.Lock())
        #: Sentences that were logged.
        self._said: set[str] = set()

    def __call__(self, call: TaskCall, proceed: Callable[[], Any]) -> Any:
        """Return the result of a task: what is kept, else what `proceed` returns, which is kept."""
        settings = self._settings
        if not settings.every_client and run_of(current_attempt.get()) != settings.run:
            return proceed()
        name = _name(call.function)
        try:
            store, wanted = self._store(), self._wanted(call, name)
        except NotKeptError as error:
            self._not_kept(name, str(error))
            return proceed()
        began = time.perf_counter()
        found, reason = self._look_up(store, wanted)
        if found is not None:
            self._record_hit(wanted, found, time.perf_counter() - began)
            return found.value
        began = time.perf_counter()
        try:
            with _noting_artifacts() as artifacts:
                result = proceed()
        except Exception as error:
            fields = wanted.fields() | {"not_kept": f"it raised {type(error).__name__}"}
            user_events.emit("cache", fields | {"hit": False})
            raise
        duration = time.perf_counter() - began
        fields = wanted.fields() | {"hit": False, "duration_s": round(duration, 6)}
        try:
            fields |= self._keep(store, wanted, result, duration, artifacts)
        except NotKeptError as error:
            reason = str(error)
            self._say(name, reason)
        except Exception as error:
            reason = f"its result cannot be kept: {error}"[:300]
            self._say(name, reason)
        if reason:
            fields["not_kept"] = reason
        user_events.emit("cache", fields)
        return result

    # -- what is asked for ------------------------------------------------------------------------

    def _store(self) -> Store:
        return Store(cache_directory(None if _named_here() else self._settings.directory))

    def _wanted(self, call: TaskCall, name: str) -> _Wanted:
        """Return what a call asks for; raises NotKeptError if its result cannot be kept."""
        function = call.function
        if _keeps_itself(function):
            raise NotKeptError("")
        if _is_actor():
            raise NotKeptError("it is an actor")
        identity = self._codes.of_function(function)
        found = fingerprint(call, self._codes.of_value)
        return _Wanted(
            key_of(identity, found.digest), name, identity, found, states_of(found.files)
        )

    def _look_up(self, store: Store, wanted: _Wanted) -> tuple[Found | None, str]:
        """Return what is kept and still holds, else why it is not used and not kept again."""
        if store.about(differs_key(wanted.key)) is not None:
            return None, _DIFFERS
        about = store.about(wanted.key)
        if about is None:
            return None, ""
        if about.get("run") == self._settings.run_id and about.get("task_id") != _task():
            # The program has asked for a further result, as for another random number.
            return None, ""
        if changed := changed_file(about, restore=True):
            store.discard(wanted.key)
            logger.debug("scalable: %s runs again: %s", wanted.name, changed)
            return None, ""
        found = store.load(wanted.key)
        if found is not None and about.get("pickled"):
            return replace(found, value=pickle.loads(found.value)), ""
        return found, ""

    # -- what is kept -----------------------------------------------------------------------------

    def _keep(
        self,
        store: Store,
        wanted: _Wanted,
        result: Any,
        duration: float,
        artifacts: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Keep a result; returns further fields of its record. Raises NotKeptError."""
        if store.about(differs_key(wanted.key)) is not None:
            raise NotKeptError(_DIFFERS)
        digest = result_digest(result, self._codes.of_value)
        about = {
            "run": self._settings.run_id,
            "task_id": _task(),
            "identity": wanted.identity,
            "result": digest,
            **files_of(wanted.files, artifacts),
            "artifacts": artifacts,
        }
        if len(json.dumps(about, default=str)) > _MAX_ABOUT:
            raise NotKeptError("it used or wrote too many files")
        try:
            size = self._save(store, wanted, result, duration, about)
        except TooLargeError:
            raise NotKeptError(
                f"its result is larger than {self._settings.results / 2**20:,.0f} MiB "
                "(the limit is keep_results=)"
            ) from None
        kept = store.about(wanted.key)
        if kept is not None and kept.get("result") != digest:
            # The same code with the same arguments had another result before.
            store.save(differs_key(wanted.key), None, None, wanted.name, 0.0, about={"differs": 1})
            store.discard(wanted.key)
            raise NotKeptError(_DIFFERS)
        return {"size_bytes": size, "result_digest": digest}

    def _save(
        self, store: Store, wanted: _Wanted, result: Any, duration: float, about: dict[str, Any]
    ) -> int:
        most = self._settings.results
        try:
            return store.save(
                wanted.key, result, None, wanted.name, duration, about=about, most=most
            )
        except (pickle.PicklingError, AttributeError, TypeError):
            # Its class is one of the program's own script, which no other process imports.
            import cloudpickle

            data = cloudpickle.dumps(result)
            about = {**about, "pickled": True}
            return store.save(wanted.key, data, None, wanted.name, duration, about=about, most=most)

    # -- what is said -----------------------------------------------------------------------------

    def _record_hit(self, wanted: _Wanted, found: Found, duration: float) -> None:
        about = found.about
        run = str(about.get("run") or "")
        fields = wanted.fields() | {
            "hit": True,
            "duration_s": round(duration, 6),
            "size_bytes": found.size,
            "result_digest": about.get("result"),
            "reused_from": run,
        }
        user_events.emit("cache", fields)
        for artifact in about.get("artifacts") or ():
            metadata = {**(artifact.get("metadata") or {}), "reused_from": run}
            user_events.emit("artifact", {**artifact, "metadata": metadata})

    def _not_kept(self, name: str, reason: str) -> None:
        if not reason:  # the function's own cache says what happens
            return
        self._say(name, reason)
        user_events.emit("cache", {"function_name": name, "hit": False, "not_kept": reason})

    def _say(self, name: str, reason: str) -> None:
        sentence = f"results of {name} are not kept: {reason}"
        with self._lock:
            if sentence in self._said or len(self._said) > 1_000:
                return
            self._said.add(sentence)
        logger.warning("scalable: %s", sentence)


_DIFFERS: Final = (
    "the same call had another result before, so it is computed each time (see `pure=False`)"
)


@contextmanager
def _noting_artifacts() -> Generator[list[dict[str, Any]]]:
    """Yield a list that gets the artifacts that the code in the block records."""
    noted: list[dict[str, Any]] = []

    def note(event_type: str, fields: Mapping[str, Any]) -> None:
        if event_type == "artifact" and len(noted) < _MAX_ARTIFACTS:
            noted.append({name: value for name, value in fields.items() if value is not None})

    token = user_events.observer.set(note)
    try:
        yield noted
    finally:
        user_events.observer.reset(token)


def _named_here() -> bool:
    from scalable.cache.store import DIRECTORY_VARIABLE

    return bool(os.environ.get(DIRECTORY_VARIABLE))


def _keeps_itself(function: Any) -> bool:
    fields: Any = getattr(function, "__dict__", None)
    return isinstance(fields, dict) and bool(cast("dict[str, Any]", fields).get(KEEPS_ITSELF))


def _task() -> str:
    attempt = current_attempt.get()
    return attempt.key if attempt is not None else ""


def _is_actor() -> bool:
    try:
        worker: Any = get_worker()
        return current_attempt.get().task.key in worker.state.actors  # type: ignore[union-attr]
    except (ValueError, AttributeError):
        return False


def _name(function: Any) -> str:
    module = getattr(function, "__module__", None)
    name = name_of(function)
    return f"{module}.{name}" if isinstance(module, str) and module else name
