"""The contents of a run's documents."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.common.command_lines import CommandLine, own_command_line, redacted_arguments

if TYPE_CHECKING:
    from distributed import Client

    from scalable_runs.schema import Environment


@dataclass(frozen=True, slots=True)
class RunDocuments:
    """The documents of a session's run; without a session the run is described as found.

    Attributes
    ----------
    target, provider : str
        Where it runs.
    manifest, lock : str
        manifest.yaml without secrets, and its digest.
    manifest_path : str or None
        Where the manifest was read.
    plan : mapping
        plan.json.
    components : mapping
        What each component asks for: ``cpus``, ``memory``, ``walltime``.
    values : mapping
        The manifest with variables replaced. It is not recorded: the secrets in it are redacted
        wherever they appear.
    """

    target: str
    provider: str
    manifest: str
    lock: str
    manifest_path: str | None
    plan: Mapping[str, Any]
    components: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]


def provider_of(client: Client | None) -> str:
    """Kind of the client's cluster; ``existing`` if only its address is known."""
    cluster = client.cluster if client is not None else None
    if cluster is None or isinstance(cluster, str):
        return "existing"
    return type(cluster).__name__.removesuffix("Cluster").lower() or "cluster"


def environment() -> Environment:
    """Versions and host; no environment variables."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "program": Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "",
        "packages": packages(),
    }


def command(redact: Callable[[str], str]) -> CommandLine:
    """How the program was started, without secrets."""
    found = own_command_line()
    found["argv"] = redacted_arguments(found["argv"], redact)
    return found


@cache  # a program may begin a run for each of its requests
def packages() -> dict[str, str]:
    """Versions of the packages that record."""
    found: dict[str, str] = {}
    for name in ("scalable-otel", "dask", "distributed", "opentelemetry-sdk"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
