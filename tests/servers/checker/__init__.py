"""Rules for everything that a collector received of a program, and for one run of it.

Each rule is a function that yields what does not obey it; its docstring is the rule.
"""

from __future__ import annotations

from servers.checker import blocks, directory, metrics, names, resources, spans
from servers.checker.model import Finding, Received, Run

__all__ = ["Finding", "Received", "Run", "check", "report"]


def check(received: Received, run: Run | None = None) -> list[Finding]:
    """Apply every rule; those on the directory need a run, which must be the only one."""
    rules = (*spans.RULES, *blocks.RULES, *resources.RULES, *metrics.RULES, *names.RULES)
    found = [finding for rule in rules for finding in rule(received)]
    if run is not None:
        found += [finding for rule in directory.RULES for finding in rule(received, run)]
    return found


def report(findings: list[Finding], each: int = 5) -> str:
    """Findings for a person: by rule, of each the first ones and how many more there are."""
    lines: list[str] = []
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    for rule, some in by_rule.items():
        lines.append(f"{rule}: {len(some)}")
        lines += [f"    {finding.subject}: {finding.message}" for finding in some[:each]]
        if len(some) > each:
            lines.append(f"    and {len(some) - each} more")
    return "\n".join(lines)
