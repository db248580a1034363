"""A power cut: what was synced is there afterwards, byte for byte; where it can be made to happen.

An ext4 on a loop device is shut down as it stands (``FS_IOC_SHUTDOWN`` without flushing its log)
while the writer is at work, and mounted again. That takes root and a loop device.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_world import RUN_ID, failure, task, written

from scalable_runs.reader import RunReader, find_runs
from scalable_runs.schema import FAILURES, TASKS

SCRIPT = Path(__file__).with_name("writer_process.py")
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Disk:
    """A small disk whose power can be cut."""

    def __init__(self, image: Path, place: Path) -> None:
        self.image, self.place = image, place

    def mount(self) -> bool:
        command = ["mount", "-o", "loop", str(self.image), str(self.place)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def cut_power(self) -> None:
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.place)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(24 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    disk = Disk(image, place)
    if not disk.mount():
        pytest.skip("no loop device here")
    yield disk
    subprocess.run(["umount", str(place)], check=False, capture_output=True)


@pytest.mark.parametrize("batches", [1, 2, 3, 8])
def test_after_a_power_cut_what_was_synced_is_there_and_the_rest_is_named(
    disk: Disk, batches: int
) -> None:
    runs = disk.place / "deep" / "runs"
    process = subprocess.Popen(
        [sys.executable, "-S", str(SCRIPT), str(runs), "--batches", str(batches), "--wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdout is not None
    said = ""
    last = f"synced {batches * 3}" if batches % 2 == 0 else f"flushed {batches * 3}"
    while last not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    disk.cut_power()
    process.kill()
    process.communicate()
    disk.unmount()
    assert disk.mount()
    try:
        synced = max((int(n) for n in re.findall(r"synced (\d+)", said)), default=0)
        # The directory itself was synced before the writer said that it exists.
        (reader,) = find_runs(runs)
        assert reader.run_id == RUN_ID
        assert reader.status == "lost"
        assert set(reader.files()) >= {TASKS, FAILURES}
        tasks = list(reader.records(TASKS))
        assert len(tasks) >= synced
        assert tasks == [written(task(n), n) for n in range(1, len(tasks) + 1)]
        failures = list(reader.records(FAILURES))
        assert failures == [written(failure(n), n) for n in range(1, len(failures) + 1)]
        assert len(failures) >= (synced + 8) // 9
        assert reader.document["journal"][TASKS]["seq"] == synced
        assert all(problem.sentences() for problem in reader.problems.values())
        assert (runs / RUN_ID / "manifest.yaml").exists()
        # What is left is never written on: the run belongs to the writer that died.
        assert RunReader(runs / RUN_ID).owner["pid"] == process.pid
    finally:
        disk.unmount()
