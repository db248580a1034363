"""The options that say where a run is kept, and how they go together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from scalable_runs.stores.places import StoreSpec, chosen, copied_to, spec_of

#: What brings the libraries of object storages.
STORE_EXTRA: Final = "pip install 'scalable-otel[store]'"
#: Variables that name a file with a run store; the second is another tool's, with more in it.
STORE_FILES: Final = ("SCALABLE_CONFIGURATION_FILE", "RUNNABLE_CONFIGURATION_FILE")
#: Libraries that copies of runs need.
_LIBRARIES: Final = ("obstore", "zstandard")


class Origin(NamedTuple):
    """Where the value of an option comes from.

    Attributes
    ----------
    rank
        0 for an argument, 1 for the environment, 2 for the manifest, 3 for a file, 4 for a default.
    name
        Names it for people.
    """

    rank: int
    name: str


class FromFile(NamedTuple):
    """A value of an option, and what names it in messages."""

    value: Any
    name: str


def run_store(value: Any) -> StoreSpec:
    """Return the place that the option `run_store` means; raises PlaceError."""
    if isinstance(value, str):
        return chosen(value.strip())
    if isinstance(value, os.PathLike):
        raise TypeError
    return spec_of(value)


def remote(value: Any) -> StoreSpec:
    """Return the place that the option `runs_dir_remote` means; raises PlaceError."""
    if isinstance(value, str | os.PathLike):
        text = os.fspath(cast("str | os.PathLike[str]", value))
        if not text.strip():
            raise ValueError
        return copied_to(text)
    spec = spec_of(value)
    if not spec.is_elsewhere:
        raise ValueError
    return spec


def settle(values: dict[str, Any], origins: Mapping[str, Origin]) -> str | None:
    """Make `runs_dir`, `run_store` and `runs_dir_remote` agree; return what cannot be, if anything.

    What comes from the better origin counts: a directory given as an argument goes before the
    `log_folder` of a file, and a store given as an argument before a variable's remote copy.
    """
    store: StoreSpec | None = values["run_store"]
    if store is None:
        return None
    folder, here = store.config.get("log_folder"), origins["run_store"]
    if folder:
        at = origins["runs_dir"]
        if at.rank == here.rank and Path(folder) != values["runs_dir"]:
            return f"{at.name} and the log_folder of {here.name} name two directories: give one"
        if at.rank < here.rank:
            config = {key: value for key, value in store.config.items() if key != "log_folder"}
            values["run_store"] = replace(store, config=config)
        else:
            values["runs_dir"] = Path(folder)
    if values["runs_dir_remote"] is not None and (store.is_elsewhere or not store.portable):
        at = origins["runs_dir_remote"]
        if at.rank <= here.rank:
            return f"{at.name} copies directories of runs: {here.name} ({store.type}) has none"
        values["runs_dir_remote"] = None
    return None


def missing_library(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> str | None:
    """Return what the options need that is not installed, as a sentence."""
    if values["parquet"] and find_spec("pyarrow") is None:
        from scalable_runs.parquet import EXTRA

        return f"{origins['parquet'].name} needs pyarrow, which is not installed: {EXTRA}"
    for name in ("run_store", "runs_dir_remote"):
        store: StoreSpec | None = values[name]
        if store is None or not store.is_elsewhere:
            continue
        needed = [library for library in _LIBRARIES if library != "obstore" or store.is_cloud]
        for library in needed:
            if find_spec(library) is None:
                return (
                    f"{origins[name].name} ({store.type}) needs {library}, which is not "
                    f"installed: {STORE_EXTRA}"
                )
    return None
