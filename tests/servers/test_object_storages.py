"""Objects in real object storages, which are killed, paused, and reached through bad networks."""

from __future__ import annotations

import uuid

import pytest

from scalable.testing import RunStoreConformance
from scalable_runs.stores import RunStore
from servers.storages import Azurite, FakeGoogle, VersityGateway


class TestS3(RunStoreConformance):
    @pytest.fixture
    def store(self, versitygw: VersityGateway) -> RunStore:
        return versitygw.store(f"conformance/{uuid.uuid4().hex}")


class TestAzure(RunStoreConformance):
    @pytest.fixture
    def store(self, azurite: Azurite) -> RunStore:
        return azurite.store(uuid.uuid4().hex)


class TestGoogle(RunStoreConformance):
    @pytest.fixture
    def store(self, fake_google: FakeGoogle) -> RunStore:
        return fake_google.store(uuid.uuid4().hex)
