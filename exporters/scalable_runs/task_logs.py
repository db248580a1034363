"""Names of the files with what attempts of tasks printed."""

from __future__ import annotations

import hashlib
import re
from typing import Final

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
