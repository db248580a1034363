"""Eight programs write one run, one is killed, and readers read it all the while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporters import many_writers


@pytest.mark.chaos
@pytest.mark.timeout(many_writers.TIMEOUT)
def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    many_writers.check_on_a_file_system(tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(many_writers.TIMEOUT)
def test_nothing_that_was_copied_to_another_directory_is_lost(tmp_path: Path) -> None:
    def settings(number: int) -> dict[str, Any]:
        place = tmp_path / "there" / str(number)
        place.mkdir(parents=True)
        return {"provider": "directory", "path": str(place)}

    many_writers.check_in_objects(tmp_path, settings)
