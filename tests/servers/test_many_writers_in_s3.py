"""Eight programs write one run into a storage, one is killed, and readers read it meanwhile."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from exporters import many_writers
from servers.storages import VersityGateway


@pytest.mark.chaos
@pytest.mark.timeout(many_writers.TIMEOUT)
def test_nothing_that_was_copied_to_a_storage_is_lost(
    versitygw: VersityGateway, tmp_path: Path
) -> None:
    many_writers.check_in_objects(tmp_path, lambda _: versitygw.settings(uuid.uuid4().hex))
