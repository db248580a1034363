"""Tries broken runs on every command: ``python -m fuzz COUNT [SEED]``, from `tests`.

With atheris (CPython on Linux x86-64) its coverage chooses what to break next; elsewhere, and with
``--plain``, each case follows from its number alone.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Modules of the commands: they are imported when they are called.
COMMANDS = ("report", "diagnose", "runs", "compare", "export", "crash_logs")


def main() -> int:
    """Run, print each kind of fault once, and exit 1 if there was one."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("count", type=int, help="broken runs to try")
    parser.add_argument("seed", type=int, nargs="?", help="number of the first; default: random")
    parser.add_argument("--plain", action="store_true", help="do without atheris")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if given.seed is None else given.seed
    if not given.plain and given.seed is None:
        try:
            import atheris
        except ImportError:
            print("atheris is not installed: cases follow from their numbers", file=sys.stderr)
        else:
            _by_coverage(atheris, given.count, seed)
    from fuzz.oracle import World, try_many

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        kinds = try_many(given.count, seed, World(Path(directory)))
    took = time.monotonic() - began
    print(f"{given.count:,} broken runs from {seed} on, {len(kinds)} kinds of faults, {took:.0f} s")
    return 1 if kinds else 0


def _by_coverage(atheris: Any, count: int, seed: int) -> None:
    """Let atheris choose; it ends the process."""
    with atheris.instrument_imports(include=["scalable.analysis", "scalable.cli", "scalable_runs"]):
        for name in COMMANDS:
            importlib.import_module(f"scalable.cli.{name}")
        importlib.import_module("scalable.analysis.text_renderer")
        from fuzz.oracle import World
    from fuzz.source import BytesRandom

    directory = Path(tempfile.mkdtemp())
    world = World(directory / "world")
    begin = directory / "begin"
    begin.mkdir()
    choose = random.Random(seed)
    for number in range(50):
        (begin / str(number)).write_bytes(choose.randbytes(400))

    def one(data: bytes) -> None:
        world.check(BytesRandom(data))

    options = [f"-atheris_runs={count}", f"-seed={seed}", "-max_len=2000", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, "-timeout=600", "-print_final_stats=1", str(begin)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
