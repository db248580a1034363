"""What one process has: host, processors, memory, variables by an allow-list, batch job."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final, TypedDict

from scalable.code.containers import own_container

#: Variables that change what code computes or how fast, by name …
_VARIABLES: Final = frozenset(
    {
        *("PYTHONPATH", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONNOUSERSITE", "PYTHONMALLOC"),
        *("PYTHONUTF8", "PYTHONSAFEPATH", "PYTHONDEVMODE", "PYTHON_GIL", "PYTHON_JIT"),
        *("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "LOADEDMODULES", "TZ", "LANG"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "TMPDIR", "XLA_FLAGS"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
        *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"),
        *("BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"),
        *("NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "POLARS_MAX_THREADS"),
        *("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "HDF5_USE_FILE_LOCKING"),
    }
)
#: … and by how their names begin.
_PREFIXES: Final = ("OMP_", "MKL_", "OPENBLAS_", "GOTO_", "KMP_", "LC_")
#: Characters of the value of one.
MAX_VARIABLE: Final = 1_000

#: Variables of batch systems: the one that shows that a job runs, and the fields of the others.
_JOBS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "slurm": (
        "SLURM_JOB_ID",
        {
            "name": "SLURM_JOB_NAME",
            "array_job": "SLURM_ARRAY_JOB_ID",
            "array_task": "SLURM_ARRAY_TASK_ID",
            "cluster": "SLURM_CLUSTER_NAME",
            "partition": "SLURM_JOB_PARTITION",
            "node": "SLURMD_NODENAME",
            "nodes": "SLURM_JOB_NODELIST",
            "cpus_per_task": "SLURM_CPUS_PER_TASK",
            "memory_per_node": "SLURM_MEM_PER_NODE",
            "submitted_from": "SLURM_SUBMIT_HOST",
        },
    ),
    "pbs": ("PBS_JOBID", {"name": "PBS_JOBNAME", "queue": "PBS_QUEUE", "node": "PBS_NODENUM"}),
    "lsf": ("LSB_JOBID", {"name": "LSB_JOBNAME", "queue": "LSB_QUEUE", "hosts": "LSB_HOSTS"}),
}


class Process(TypedDict, total=False):
    """What one process has; fields as in environments.jsonl."""

    host: str
    pid: int
    executable: str
    platform: str
    cpu: dict[str, Any]
    memory_bytes: int
    variables: dict[str, str]
    batch_job: dict[str, str]
    container: dict[str, Any]


def process_of(environ: Mapping[str, str], executable: str = "") -> Process:
    """Describe this process; another's `executable` may be given, of the same host."""
    found: Process = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "executable": executable or sys.executable or "",
        "platform": _platform(),
        "cpu": _cpu(),
        "variables": variables_of(environ),
    }
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if job := batch_job(environ):
        found["batch_job"] = job
    if container := own_container():
        found["container"] = dict(container)
    return found


def variables_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the allow-list, in the order of their names."""
    return {
        name: environ[name][:MAX_VARIABLE]
        for name in sorted(environ)
        if name in _VARIABLES or name.startswith(_PREFIXES)
    }


def batch_job(environ: Mapping[str, str]) -> dict[str, str]:
    """The job of a batch system that the process belongs to; empty if to none."""
    for system, (shown_by, fields) in _JOBS.items():
        if job := environ.get(shown_by):
            found = {name: environ[of] for name, of in fields.items() if environ.get(of)}
            texts = {"system": system, "id": job, **found}
            return {name: value[:MAX_VARIABLE] for name, value in texts.items()}
    return {}


def _platform() -> str:
    """As :func:`platform.platform`, which may start a process and reads the interpreter's file."""
    try:
        name = os.uname()
    except AttributeError:
        return platform.platform()
    library = ""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        library = (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "")
    parts = (name.sysname, name.release, name.machine, *(("with", library) if library else ()))
    return "-".join(parts)


def _cpu() -> dict[str, Any]:
    """The processor's model, how many there are, and how many this process may use."""
    found: dict[str, Any] = {"count": os.cpu_count() or 0}
    with contextlib.suppress(OSError, AttributeError):
        found["usable"] = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        # Of many processors the file is long, and the kernel makes it anew each time.
        with open("/proc/cpuinfo", "rb", buffering=0) as file:  # noqa: PTH123
            head = file.read(4096).decode("utf-8", "replace")
        if model := re.search(r"^(?:model name|Model|cpu model)\s*:\s*(\S.*)$", head, re.MULTILINE):
            found["model"] = model[1].strip()
    return found
