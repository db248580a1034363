"""The manifest that ``scalable init`` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

_TARGETS: Final = {
    "local": """\
  # This machine. The script stays the same when it runs elsewhere.
  local:
    provider: local
    max_workers: {workers}
    threads_per_worker: 1
    processes: true          # false: workers are threads of the program itself
""",
    "existing": """\
  # A scheduler that runs already.
  existing:
    provider: existing
    address: ${SCHEDULER_ADDRESS:-tcp://127.0.0.1:8786}   # or scheduler_file: scheduler.json
""",
    "slurm": """\
  # Slurm jobs with one worker each: pip install 'scalable-otel[slurm]'
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

#: Providers that have a template.
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
# What runs, and where. `scalable validate` checks this file, `scalable plan` shows what would be
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

# Settings for every submission of the function of this name.
# tasks:
#   simulate:
#     component: {component}
#     cache: true            # keep its results across runs

# Changes for targets with `overlay: big`; lists are replaced, `name+` adds to a list.
# overlays:
#   big:
#     components: {{{component}: {{memory: 16G}}}}

# Options of scalable.instrument().
# telemetry:
#   sample_interval: 5
"""


def _scalar(text: str) -> str:
    """Quote a name unless YAML reads it as text anyway."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", text)
    if plain and text.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n"):
        return text
    return json.dumps(text, ensure_ascii=False)
