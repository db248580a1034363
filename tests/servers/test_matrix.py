"""Every rule of the checker on what a real collector receives, of each cell of the matrix.

A covering set of the cells runs by default; ``make matrix`` runs them all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import matrix
from servers.checker import Received, report
from servers.harness import Collector
from servers.installed import entry_points

CELLS = matrix.ALL if os.environ.get("MATRIX") == "all" else matrix.SHORT
#: Programs at a time.
AT_ONCE = 2


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    server = Collector(tmp_path_factory.mktemp("collector"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, collector: Collector
) -> dict[matrix.Cell, matrix.Outcome]:
    """The programs of the cells whose tests were selected have ended, and the collector too."""
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    cells = [cell for cell in CELLS if any(one.get("cell") == cell for one in asked)]
    base = tmp_path_factory.mktemp("matrix")
    installed = entry_points(base / "site")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [
            pool.submit(matrix.run_cell, cell, collector, installed, base / cell.name)
            for cell in cells
        ]
        done = [future.result() for future in running]
    collector.stop()
    return {outcome.cell: outcome for outcome in done}


@pytest.fixture(scope="module")
def received(outcomes: dict[matrix.Cell, matrix.Outcome], collector: Collector) -> Received:
    return Received.read(sorted(collector.directory.glob("*.jsonl")))


@pytest.mark.timeout(60 + 40 * len(CELLS))
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_rule_holds(
    cell: matrix.Cell, outcomes: dict[matrix.Cell, matrix.Outcome], received: Received
):
    found = matrix.findings(outcomes[cell], received)
    assert not found, f"{cell.name}\n{report(found)}"


def test_the_short_form_has_each_value_of_each_axis():
    for axis, values in zip(
        zip(*matrix.SHORT, strict=True),
        (matrix.KINDS, matrix.BUDGETS, matrix.PROPAGATORS, matrix.PROTOCOLS),
        strict=True,
    ):
        assert set(axis) == set(values)
