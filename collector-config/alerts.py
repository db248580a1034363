"""Generates the alert rules in ``grafana/alerts.yaml``, for Prometheus.

``make docs`` runs this file; ``--check`` reports a file that is out of date. Names of metrics and
attributes are taken from the package that records them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from dashboards import (
    HAS_ERROR,
    NOT_SENT,
    REASON,
    RESULT,
    RUN,
    SERVICE,
    add,
    growth,
    match,
    series_name,
)

from scalable.telemetry import instruments as m
from scalable.telemetry.instrument import Instrument

FILE: Final = Path(__file__).parent / "grafana" / "alerts.yaml"
#: Share of attempts that fail, and number of attempts, from which on an alert is given.
FAILURE_SHARE, FAILURE_ATTEMPTS = 0.1, 20

_HEADER: Final = """\
# Alert rules for Prometheus, made by ../alerts.py (`make docs`). Used by ../grafana.compose.yaml;
# for an existing Prometheus, name this file in `rule_files`. Each alert has the labels of the run's
# service and id, and ends by itself some minutes after its cause.

"""


def grown(instrument: Instrument, over: str, *by: str, where: str = "") -> str:
    """What a counter of each run has grown by in a time."""
    series = series_name(instrument) + (f"{{{where}}}" if where else "")
    return add(growth(series, over), SERVICE, RUN, *by)


def rules() -> dict[str, Any]:
    """The content of the file."""
    failed = grown(m.TASK_ATTEMPTS, "15m", where=match(RESULT, "failure", "error"))
    attempts = grown(m.TASK_ATTEMPTS, "15m")
    lost = [
        grown(metric, "5m", where=HAS_ERROR) for metrics in NOT_SENT.values() for metric in metrics
    ]
    run = f"run {{{{ $labels.{RUN} }}}} of {{{{ $labels.{SERVICE} }}}}"
    return {
        "groups": [
            {
                "name": "scalable",
                "rules": [
                    _rule(
                        "ScalableWorkerLost",
                        f"{grown(m.WORKER_LOST, '5m', REASON)} > 0",
                        "warning",
                        f"Workers of {run} were lost: {{{{ $labels.{REASON} }}}}",
                        "{{ $value }} workers ended without a request in the last 5 minutes. "
                        "`scalable diagnose` names the cause, with the end of their output.",
                    ),
                    _rule(
                        "ScalableFailureShare",
                        f"({failed} / {attempts} > {FAILURE_SHARE}) and "
                        f"{attempts} >= {FAILURE_ATTEMPTS}",
                        "warning",
                        f"Attempts of {run} fail",
                        "{{ $value | humanizePercentage }} of the attempts of the last 15 minutes "
                        "failed, or were lost with their worker.",
                    ),
                    _rule(
                        "ScalableTelemetryDropped",
                        " or ".join(
                            f"({each} > 0)" for each in (grown(m.FACTS_DROPPED, "5m"), *lost)
                        ),
                        "info",
                        f"Telemetry of {run} is incomplete here",
                        "{{ $value }} items of the last 5 minutes did not arrive. The run "
                        "directory has all that its run.json does not count as dropped.",
                    ),
                ],
            }
        ]
    }


def _rule(name: str, expr: str, severity: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description},
    }


def rendered() -> str:
    """The text of the file."""
    return _HEADER + yaml.safe_dump(rules(), sort_keys=False, width=100)


def main(arguments: Sequence[str]) -> int:
    """Write the file; with ``--check`` only report whether it is out of date."""
    text = rendered()
    if FILE.exists() and FILE.read_text() == text:
        return 0
    if "--check" in arguments:
        print(f"{FILE} is out of date: run `make docs`", file=sys.stderr)
        return 1
    FILE.write_text(text)
    print(f"wrote {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
