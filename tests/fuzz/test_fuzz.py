"""Whatever bytes a run's directory holds, no command that reads it fails, hangs or hurts.

`make fuzz N=…` tries more of them. A fault that it finds can be seen again by the number that it
prints: ``python -m fuzz 1 NUMBER``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.oracle import World
from fuzz.source import BytesRandom

#: Broken runs in all.
COUNT = int(os.environ.get("FUZZ_N", "1200"))
#: Of those, the ones that hypothesis makes, and makes smaller where one shows a fault.
SHRUNK = 100


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.timeout(1800)
def test_no_command_minds_broken_runs(processes: list[subprocess.Popen[str]]) -> None:
    half = (COUNT - SHRUNK) // 2
    for first in (1, 1 + half):
        command = [sys.executable, "-m", "fuzz", str(half), str(first)]
        processes.append(
            subprocess.Popen(
                command,
                cwd=Path(__file__).parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0, said[-20_000:]


@pytest.mark.timeout(600)
@settings(
    max_examples=SHRUNK,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(choose=st.randoms(use_true_random=False))
def test_no_command_minds_runs_that_hypothesis_breaks(world: World, choose: random.Random) -> None:
    world.check(choose)


def test_bytes_make_every_choice() -> None:
    assert [BytesRandom(b"\x00\x00\x00\x80").random(), BytesRandom(b"").random()] == [0.5, 0.0]
    one, other = (BytesRandom(bytes([first, 7, 7, 7])) for first in (1, 2))
    assert [one.choice("abcd"), other.choice("abcd")] == ["b", "c"]
