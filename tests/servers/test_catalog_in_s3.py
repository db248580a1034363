"""The data catalog in an object storage, by fsspec and s3fs, and writers killed on their way."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from scalable.catalog import Catalog, ChangedError
from servers.storages import BUCKET, VersityGateway

WRITER = """\
import sys
from pathlib import Path
from scalable.catalog import Catalog

here = Catalog(sys.argv[1])
print("ready", flush=True)
for number in range(10**6):
    Path("x").write_bytes(f"{sys.argv[2]} {number}".encode() * 50_000)
    here.put("x", name="x")
"""


@pytest.fixture
def place(versitygw: VersityGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name, value in versitygw.environ().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


def test_files_go_to_s3_and_come_back_checked(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Path("maps").mkdir()
    for number in range(3):
        Path(f"maps/{number}.tif").write_bytes(bytes([number]) * 1_000_000)
    there = Catalog(place)
    (entry,) = there.put("maps")
    with ThreadPoolExecutor(8) as pool:
        for number in range(16):
            pool.submit(there.put_bytes, b"%d" % number, name="many")
    assert len(there.versions("many")) == 16
    assert list(there.verify()) == []
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # with nothing kept there yet
    fresh = Catalog(place)
    assert sorted(path.name for path in fresh.get("maps").iterdir()) == ["0.tif", "1.tif", "2.tif"]
    assert fresh.entry("maps").digest == entry.digest
    hexadecimal = hashlib.sha256(b"7").hexdigest()
    # By somebody with access: S3 keeps a checksum of its own of each object.
    system: Any = fsspec.filesystem("s3")
    system.pipe_file(f"{place}/content/{hexadecimal[:2]}/{hexadecimal}", b"8")
    with pytest.raises(ChangedError, match=hashlib.sha256(b"8").hexdigest()):
        fresh.get("many", digest=hexadecimal)
    (changed,) = fresh.verify()
    assert changed.expected == f"sha256:{hexadecimal}"


def test_a_writer_killed_on_its_way_to_s3_leaves_nothing_torn(place: str):
    moments = random.Random(5)
    for seed in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, place, str(seed)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0.02, 0.4))
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate(timeout=60)
    there = Catalog(place)
    assert list(there.verify()) == []
    for entry in there.versions("x"):
        assert there.get("x", digest=entry.digest).stat().st_size == entry.size_bytes
