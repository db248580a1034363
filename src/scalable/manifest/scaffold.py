"""The manifest that ``scalable init`` writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_TARGETS: Final = {
    "local": """\
  # This machine. The script does not change when it runs elsewhere.
  local:
    provider: local
    max_workers: {workers}
    threads_per_worker: 1
    processes: true          # false: workers are threads of the program itself
""",
    "existing": """\
  # A scheduler that is there already.
  existing:
    provider: existing
    address: ${SCHEDULER_ADDRESS:-tcp://127.0.0.1:8786}   # or scheduler_file: scheduler.json
""",
    "slurm": """\
  # Jobs of Slurm, one worker each: pip install 'scalable-otel[slurm]'
  slurm:
    provider: slurm
    queue: ${SLURM_PARTITION:-compute}
    # account: my-account
    walltime: 02:00:00
    # interface: ib0
    max_workers: {workers}
""",
    "kubernetes": """\
  # A Kubernetes cluster with Dask's operator: pip install 'scalable-otel[kubernetes]'
  kubernetes:
    provider: kubernetes
    namespace: default
    image: ghcr.io/dask/dask:latest
    max_workers: {workers}
""",
    "aws": """\
  # Amazon's cloud: pip install 'scalable-otel[aws]'
  aws:
    provider: aws
    region: us-east-1
    max_workers: {workers}
""",
    "gcp": """\
  # Google's cloud: pip install 'scalable-otel[gcp]'
  gcp:
    provider: gcp
    project_id: ${GCP_PROJECT:-my-project}
    zone: us-central1-a
    max_workers: {workers}
""",
}

#: Providers for which there is something to write.
PROVIDERS: Final = tuple(_TARGETS)


def manifest_text(
    project: str,
    providers: Sequence[str],
    *,
    component: str = "worker",
    workers: int = 2,
    cpus: float = 1,
    memory: str = "1G",
) -> str:
    """Return a commented manifest with a target for each provider, of :data:`PROVIDERS`."""
    targets = "\n".join(
        _TARGETS[name].replace("{workers}", str(workers)) for name in dict.fromkeys(providers)
    )
    return f"""\
# yaml-language-server: $schema=./scalable.schema.json
# What is run and where. `scalable validate` checks this file, `scalable plan` says what would be
# started, `scalable schema --output scalable.schema.json` lets editors complete it.
version: 1

project:
  name: {_scalar(project)}

targets:
{targets}
# What kinds of tasks need. client.submit(function, tag="{component}") runs on workers that have it.
components:
  {_scalar(component)}:
    cpus: {cpus:g}
    memory: {memory}

# What holds for a function of this name wherever it is submitted.
# tasks:
#   simulate:
#     component: {component}
#     cache: true            # keep its results across runs

# Changes that a target asks for by `overlay: big`; lists are replaced, `name+` adds to a list.
# overlays:
#   big:
#     components: {{{component}: {{memory: 16G}}}}

# Options of scalable.instrument().
# telemetry:
#   sample_interval: 5
"""


def _scalar(text: str) -> str:
    """Write a name so that YAML reads a text."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", text)
    if plain and text.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n"):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'
