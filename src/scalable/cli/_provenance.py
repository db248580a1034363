"""Writes a run in the formats of others, for `scalable export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from scalable.cli._commands import CommandError
from scalable.cli._terminal import progress_bar

if TYPE_CHECKING:
    from scalable.provenance.gathered import Gathered
    from scalable.provenance.ro_crate import People, Profile
    from scalable_runs.reader import RunReader

#: Failed attempts that are kept for a crate, whose entities are bounded.
_MOST_FAILED: Final = 5_000


def write_ro_crate(
    reader: RunReader, directory: Path, people: People, profile: Profile | None
) -> dict[str, Any]:
    """Make a crate in a directory that is new or empty; returns what was done.

    Parameters
    ----------
    reader
        The run.
    directory
        Where the crate is made; it must not exist, or be empty.
    people
        Who publishes the crate.
    profile
        What it follows. None: Provenance Run Crate if the manifest declares tasks, which are its
        steps, else Process Run Crate.

    Raises
    ------
    CommandError
        The directory is not empty, or cannot be written.
    """
    from scalable.analysis import load_report, render_markdown
    from scalable.provenance import ro_crate

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CommandError(f"{directory} is not an empty directory: name a new one.")
    gathered = _gather(reader)
    chosen = profile or ("provenance" if _declares_tasks(reader) else "process")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in gathered.files:
            _copy(reader, name, directory / name)
        (directory / ro_crate.WORKFLOW).write_text(ro_crate.workflow_of(gathered), "utf-8")
        card = render_markdown(load_report(reader))
        (directory / ro_crate.README).write_text(card, "utf-8")
        sizes = {
            path.relative_to(directory).as_posix(): path.stat().st_size
            for path in directory.rglob("*")
            if path.is_file()
        }
        crate = ro_crate.crate_of(gathered, people, sizes, chosen)
        # The last file: without it the directory is no crate.
        _write_json(directory / ro_crate.METADATA, crate)
    except OSError as error:
        raise CommandError(f"{directory} cannot be written: {error.strerror or error}.") from None
    return {
        "destination": str(directory),
        "profile": chosen,
        "entities": len(crate["@graph"]),
        "files": len(sizes) + 1,
        "failed_attempts": gathered.failed_count,
    }


def write_prov(reader: RunReader, file: Path) -> dict[str, Any]:
    """Write a run as PROV-JSON; returns what was done.

    Raises
    ------
    CommandError
        The file cannot be written.
    """
    from scalable.provenance.prov import prov_of

    document = prov_of(_gather(reader))
    try:
        _write_json(file, document)
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror or error}.") from None
    counts = {name: len(rows) for name, rows in document.items() if name != "prefix"}
    return {"destination": str(file), **counts}


def send_openlineage(
    reader: RunReader, target: str | None, namespace: str | None
) -> dict[str, Any]:
    """Send a run's events to OpenLineage, or append them to a file; returns what was done.

    Raises
    ------
    CommandError
        The run goes on, the extra is missing, or not all events were accepted.
    """
    from scalable.provenance import openlineage

    if reader.is_live:
        raise CommandError(f"{reader.run_id} is being recorded: export it when it has ended.")
    if target is None and not openlineage.is_configured():
        raise CommandError(
            "Where should the events go? Name an address or a file, or set OPENLINEAGE_URL."
        )
    try:
        count = openlineage.send(_gather(reader), target, namespace)
    except ImportError as error:
        raise CommandError(f"{error}.") from None
    except Exception as error:
        raise CommandError(f"Not all events were accepted: {error}") from None
    return {"destination": target or "the place of OPENLINEAGE_*", "events": count}


def _gather(reader: RunReader) -> Gathered:
    from scalable.provenance.gathered import gather

    with progress_bar("Reading the run") as progress:
        return gather(reader, most_failed=_MOST_FAILED, progress=progress)


def _declares_tasks(reader: RunReader) -> bool:
    import yaml

    from scalable_runs.schema import MANIFEST
    from scalable_runs.stores.base import joined

    try:
        manifest: Any = yaml.safe_load(joined(reader.store.read(MANIFEST)))
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(manifest, dict) and bool(cast("dict[str, Any]", manifest).get("tasks"))


def _copy(reader: RunReader, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    store, inside = reader.place_of(name)
    with target.open("wb") as file:
        for block in store.read(inside):
            # What was never written of a damaged file stays a hole.
            file.write(block) if isinstance(block, bytes) else file.seek(block.length, 1)
        file.truncate()


def _write_json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", "utf-8", errors="backslashreplace")
