"""Names of the files with what attempts of tasks printed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any, Final

from scalable_runs.stores.base import Store

#: Folder of a run with a file for each attempt that printed something and whose output was kept.
TASK_LOGS: Final = "logs/tasks"
#: Folder of a run with the output of its workers' processes.
WORKER_LOGS: Final = "logs/workers"

_MAX_STEM: Final = 96


def task_log(task_id: str, attempt: int | None) -> str:
    """Return the name, in the run, of the file with the output of an attempt.

    Parameters
    ----------
    task_id
        The task, as the journals have it.
    attempt
        Number of the attempt; None if it is not known.

    Returns
    -------
    str
        Such as `logs/tasks/load-3f0a.1.log`. Characters that a file system may not take are
        replaced; a digest of the task tells it from others then.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", task_id).strip("-")[:_MAX_STEM]
    if stem != task_id:
        digest = hashlib.blake2b(task_id.encode("utf-8", "replace"), digest_size=4)
        stem = f"{stem}-{digest.hexdigest()}".lstrip("-")
    return f"{TASK_LOGS}/{stem}.{'unknown' if attempt is None else attempt}.log"


def attachments(store: Store, folder: str) -> list[str]:
    """Return the names of the attachments of a run below a folder, in order.

    There are none if the store cannot list them, or if they cannot be read now. A store without a
    directory lists them if it has a method `inside`, called with the folder.
    """
    inside: Any = getattr(store, "inside", None)
    try:
        if inside is not None:
            return list(inside(folder))
    except OSError:
        return []
    if store.directory is None:
        return []
    found: list[str] = []
    for path, folders, names in os.walk(store.directory / folder):  # links are not followed
        folders[:] = [one for one in folders if not one.startswith(".")]
        below = Path(path).relative_to(store.directory).as_posix()
        found += [f"{below}/{name}" for name in names if not name.startswith(".")]
    return sorted(found)
