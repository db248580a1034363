"""Check files of OTLP in JSON, as the Collector's file exporter writes them.

From the top of the repository: ``PYTHONPATH=tests python -m servers.checker [--run DIRECTORY]
FILE…``. The exit code is 1 if a rule found something.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scalable_runs.reader import RunReader
from servers.checker import Received, Run, check, report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--run", type=Path, help="the directory of the run that they are of")
    parser.add_argument(
        "--outside", nargs="*", default=(), metavar="ID", help="spans sent elsewhere"
    )
    parser.add_argument("--each", type=int, default=10, help="findings shown of each rule")
    options = parser.parse_args()
    received = Received.read(options.files, options.outside)
    found = check(received, Run(RunReader(options.run)) if options.run else None)
    counts = (len(received.spans), len(received.points), len(received.records))
    print("{} spans, {} metric points, {} log records".format(*counts))
    print(report(found, options.each) or "Every rule holds.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
