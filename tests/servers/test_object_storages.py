"""Objects in real object storages, which are killed, paused, and reached through bad networks."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from scalable.testing import RunStoreConformance
from scalable_runs.stores import RunStore
from servers.storages import Azurite, FakeGoogle, VersityGateway


class TestS3(RunStoreConformance):
    @pytest.fixture
    def store(self, versitygw: VersityGateway) -> RunStore:
        return versitygw.store(f"conformance/{uuid.uuid4().hex}")


class _Slow(RunStoreConformance):
    """A server that takes long for it shows one interruption; S3 and directories show them all."""

    @pytest.mark.parametrize("seed", [0])
    def test_a_copy_that_is_interrupted_anywhere_is_finished_later(
        self, store: RunStore, tmp_path: Path, seed: int
    ):
        super().test_a_copy_that_is_interrupted_anywhere_is_finished_later(store, tmp_path, seed)


class TestAzure(_Slow):
    @pytest.fixture
    def store(self, azurite: Azurite) -> RunStore:
        return azurite.store(uuid.uuid4().hex)


class TestGoogle(_Slow):
    @pytest.fixture
    def store(self, fake_google: FakeGoogle) -> RunStore:
        return fake_google.store(uuid.uuid4().hex)
