"""``python -m benchmarks``: measure, print the table, write JSON and plot, judge."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import machine, plot, table
from benchmarks.advise import JSON_VARIABLE, TRACES_VARIABLE
from benchmarks.table import Row

#: Each part runs in a process of its own, and does not affect the others.
PARTS: Final = {
    "startup": "benchmarks.startup:startup",
    "memory": "benchmarks.hooks:memory",
    "loops": "benchmarks.hooks:in_the_loops",
    "alone": "benchmarks.alone:scheduler_alone",
    "instructions": "benchmarks.instructions:instructions",
    "hold": "benchmarks.hooks:longest_hold",
    "recorder": "benchmarks.recording:recorder",
    "report": "benchmarks.reports:report",
    "stores": "benchmarks.stores:stores",
    "driver": "benchmarks.overhead:in_the_driver",
    "noop": "benchmarks.overhead:noop_tasks",
    "short": "benchmarks.overhead:short_tasks",
    "apart": "benchmarks.overhead:processes_apart",
    "otlp": "benchmarks.otlp:to_a_sink",
    "loss": "benchmarks.loss:loss",
    "parameters": "benchmarks.parameters:levels",
    "advise": "benchmarks.advise:advise",
}
_RESULTS: Final = Path(__file__).parent / "results"
_PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
_NOTES: Final = Path(__file__).parent / "NOTES.md"
_BEGIN: Final = "<!-- figures: written by `make bench` -->\n"
_IMAGE: Final = "Instrumented ÷ bare: each round, beside bare ÷ bare"
_END: Final = "<!-- end of figures -->"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller, two minutes; fails on counts only"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sorted(PARTS),
        default=[],
        metavar="PART",
        help=f"measure these parts again and keep the others of the last table: {', '.join(PARTS)}",
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each ratio (default 7)")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="directory of the results")
    parser.add_argument(
        "--traces",
        type=Path,
        metavar="DIR",
        help="traces of workflows (*.csv), for the part advise",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write what the part advise found as JSON"
    )
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    # So that started processes are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if given.part:
        print(json.dumps(table.documents(_measure(given.part, given.quick))))
        return
    os.environ["SCALABLE_BENCH_ROUNDS"] = str(given.rounds)
    for name, path in ((TRACES_VARIABLE, given.traces), (JSON_VARIABLE, given.json)):
        if path is not None:
            os.environ[name] = str(path.resolve())
    sys.exit(_run_all(given.only or list(PARTS), given.quick, given.results, bool(given.only)))


def _run_all(parts: list[str], quick: bool, results: Path, keep: bool) -> int:
    name = "quick" if quick else "full"
    target = results / f"{name}.json"
    found: dict[str, list[dict[str, Any]]] = {}
    machines: dict[str, Any] = {}
    if keep and target.exists():
        before = json.loads(target.read_bytes())
        found, machines = before["parts"], before["machines"]
    broken: list[str] = []
    for part in parts:
        print(f"{part} …", file=sys.stderr, flush=True)
        machines[part] = machine.describe()
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks", "--part", part]
        output, status = _output([*command, *(["--quick"] if quick else [])])
        if status:
            broken.append(part)
            found.pop(part, None)
            continue
        found[part] = json.loads(output.splitlines()[-1])
        print(f"  took {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        # Written after each part, since the whole takes long and may be interrupted.
        found = {part: found[part] for part in PARTS if part in found}
        _write(target, quick, found, {part: machines[part] for part in found})
    rows = _rows(found)
    print(table.render(rows))
    for row in rows:
        if row.note:
            print(f"  {row.key}: {row.note}")
    return _verdict(rows, broken, quick)


def _output(command: list[str]) -> tuple[bytes, int]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            process.terminate()
            raise
        return output, process.returncode


def _write(
    target: Path,
    quick: bool,
    parts: dict[str, list[dict[str, Any]]],
    machines: dict[str, Any],
) -> None:
    rows = _rows(parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"quick": quick, "machines": machines, "parts": parts}
    target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if quick:
        return
    if any(row.control and not row.unit for row in rows):
        target.with_suffix(".svg").write_text(plot.ratios_plot(rows))
    if target.parent == _RESULTS:
        _write_pages(rows, machines)


def _write_pages(rows: list[Row], machines: dict[str, Any]) -> None:
    """Write the budgets into docs/performance.md, and every figure into benchmarks/NOTES.md."""
    image = ""
    if any(row.control and not row.unit for row in rows):
        image = f"\n![{_IMAGE}](../benchmarks/results/full.svg)\n"
    budgets = table.render_markdown([row for row in rows if row.budget is not None])
    _fill(_PAGE, f"{image}\n{budgets}\n\n{_conditions(rows, machines)}\n\n")
    notes = "\n".join(f"- {row.what}: {row.note}." for row in rows if row.note)
    _fill(_NOTES, f"\n{table.render_markdown(rows)}\n\n{notes}\n\n")


def _conditions(rows: list[Row], machines: dict[str, Any]) -> str:
    latest: dict[str, Any] = max(machines.values(), key=lambda found: found["measured_at"])
    loads = [found["load"][0] for found in machines.values()]
    packages = ", ".join(f"{name} {found}" for name, found in latest["packages"].items())
    words = (
        f"The last part began at {latest['measured_at']}, on {latest['processors']} processors "
        f"({latest['processor']}), {latest['memory_gb']} GB, {latest['system']}, "
        f"Python {latest['python']}, {packages}. Load when the parts began: {min(loads)} to "
        f"{max(loads)}; figures in µs and s grow with the load, and ratios get noisier."
    )
    counts = [len(row.rounds) for row in rows if row.control and not row.unit]
    if counts:
        words += f" Rounds of each ratio: {min(counts)} to {max(counts)}."
    missing = [part for part in PARTS if part not in machines]
    return words + (f" Not measured there: {', '.join(missing)}." if missing else "")


def _fill(page: Path, text: str) -> None:
    """Replace what is between the marks of a page."""
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    page.write_text(before + begin + text + end + after)


def _rows(parts: dict[str, list[dict[str, Any]]]) -> list[Row]:
    return [row for part in parts.values() for row in table.rows_of(part)]


def _verdict(rows: list[Row], broken: list[str], quick: bool) -> int:
    missed = table.missed(rows, counts_only=quick)
    for row in missed:
        print(f"missed: {row.what}: {table.number(row.measured)} {row.unit}".rstrip())
    for part in broken:
        print(f"could not be measured: {part}")
    if quick:
        later = len(table.missed(rows)) - len(missed)
        if later:
            print(f"{later} budgets of time are missed, which the quick form allows")
    return 1 if missed or broken else 0


def _measure(part: str, quick: bool) -> list[Row]:
    module, _, function = PARTS[part].partition(":")
    with tempfile.TemporaryDirectory(prefix="scalable-bench-") as directory:
        return getattr(importlib.import_module(module), function)(Path(directory), quick)


if __name__ == "__main__":
    main()
