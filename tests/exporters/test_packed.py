"""Runs packed into one file are read in place, and come back as they were."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from store_world import create, task

from run_builder import RunBuilder, at, eventful, life
from scalable.cli import cli
from scalable_runs.reader import RunReader, find_runs, resolve_run
from scalable_runs.remote.compression import compressed
from scalable_runs.schema import TASKS
from scalable_runs.stores.file import FileRoot, FileStore
from scalable_runs.writer import RunWriter

pytest.importorskip("zstandard")
from scalable_runs.packed import pack as packing
from scalable_runs.packed.archive import Archive
from scalable_runs.packed.store import PackedStore

RUN = "run-20260102T030405Z-flights-0a1b2c3d"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    builder = RunBuilder(tmp_path / "runs", RUN)
    eventful(builder)
    builder.writer.append(TASKS, [task(n, padding=500) for n in range(10_000)])
    with builder.writer.store.attach("logs/tcp-127.0.0.1-1/stderr.log") as file:
        file.write(b"Killed\n")
    return builder.finish(12)


def content(directory: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of every file."""
    return {
        str(path.relative_to(directory)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            int(path.stat().st_mtime),
        )
        for path in directory.rglob("*")
        if path.is_file()
    }


def answers(reader: RunReader) -> dict[str, Any]:
    """All that a reader says."""
    return {
        "document": reader.document,
        "status": reader.status,
        "summary": reader.summary(),
        "files": {file: list(reader.records(file)) for file in reader.files()},
        "sizes": {file: reader.size(file) for file in reader.files()},
        "problems": {name: str(problems) for name, problems in reader.problems.items()},
        "log": b"".join(
            bytes(part)
            for part in reader.store.read("logs/tcp-127.0.0.1-1/stderr.log")
            if isinstance(part, bytes)
        ),
    }


def scalable(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="scalable")


def test_a_packed_run_answers_as_its_directory_did_and_comes_back(run: Path) -> None:
    before, files = answers(RunReader(run)), content(run)
    packed = packing.pack(run)
    assert not run.exists()
    assert packed.stat().st_size < sum(len(name) for name in files) + 2_000_000
    (found,) = find_runs(run.parent)
    assert isinstance(found.store, PackedStore)
    assert found.run_id == RUN
    assert answers(found) == before
    assert answers(RunReader(packed)) == before
    assert answers(resolve_run(run.parent, RUN[:12])) == before
    assert packing.unpack(packed) == run
    assert not packed.exists()
    assert content(run) == files


def test_commands_name_the_file_of_a_packed_run(run: Path) -> None:
    packed = packing.pack(run)
    runs_dir = ("--runs-dir", str(run.parent))
    assert str(packed) in scalable("report", *runs_dir).output
    (listed,) = json.loads(scalable("runs", "--json", *runs_dir).stdout)
    assert listed["path"] == str(packed)
    result = scalable("clean", "--keep", "0", "--yes", "--json", *runs_dir)
    assert json.loads(result.stdout) == {"chosen": [RUN], "removed": [RUN], "failed": {}}
    assert not packed.exists()


def test_a_file_is_read_from_any_byte(run: Path) -> None:
    whole = (run / TASKS).read_bytes()
    assert len(whole) > 5_000_000  # more than a block
    store = PackedStore(packing.pack(run))
    for start in (0, 1, 4_194_303, 4_194_304, 4_200_000, len(whole), len(whole) + 10):
        assert b"".join(store.read(TASKS, start)) == whole[start:]
    assert b"".join(store.read(TASKS, 10, 4_194_400)) == whole[10 : 10 + 4_194_400]


def test_any_tar_unpacks_it_and_what_any_tar_packed_is_read(run: Path, tmp_path: Path) -> None:
    before, files = answers(RunReader(run)), content(run)
    packed = packing.pack(run, keep=True)
    if shutil.which("zstd"):
        subprocess.run(["tar", "--zstd", "-xf", packed], cwd=tmp_path, check=True)
        assert content(tmp_path / RUN) == files
    import zstandard

    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as tar:
        tar.add(run, f"./{RUN}")
    foreign = tmp_path / "elsewhere" / f"{RUN}.tar.zst"
    foreign.parent.mkdir()
    foreign.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    assert answers(RunReader(foreign)) == before
    assert content(packing.unpack(foreign)) == files


def test_a_run_of_several_writers_is_packed_with_its_parts(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / RUN
    run_document = {"run_id": RUN, "started_at": at(0), "status": "running"}
    for writer in ("a", "b"):
        store = FileStore(directory / "writers" / writer)
        part = RunWriter.create(store, cast("Any", run_document), writer=writer)
        part.append(TASKS, [dict(one) for one in life(f"inc-{writer}", 0, 1.0)])
        part.close(status="completed", finished_at=at(2))
    before = RunReader(directory)
    records = [record["task_id"] for record in before.records(TASKS)]
    assert set(records) == {"inc-a", "inc-b"}
    after = RunReader(packing.pack(directory))
    assert list(after.parts) == list(before.parts) == ["a", "b"]
    assert [record["task_id"] for record in after.records(TASKS)] == records


def test_nothing_is_packed_over_what_exists_and_a_failure_changes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = run.with_name(f"{RUN}.tar.zst")
    packed.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        packing.pack(run)
    packed.unlink()
    files = content(run)
    original = os.fsync

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        packing.pack(run)
    monkeypatch.setattr(os, "fsync", original)
    assert content(run) == files
    assert [path.name for path in run.parent.iterdir()] == [RUN]
    packing.pack(run, keep=True)
    with pytest.raises(FileExistsError):
        packing.unpack(packed)
    assert content(run) == files


def test_no_run_is_recorded_over_a_packed_one(run: Path) -> None:
    packing.pack(run)
    with pytest.raises(FileExistsError):
        RunBuilder(run.parent, RUN)
    assert [path.name for path in run.parent.iterdir()] == [f"{RUN}.tar.zst"]


def test_a_damaged_file_is_refused_or_said_and_never_raises_more(run: Path) -> None:
    files = content(run)
    packed = packing.pack(run)
    whole = packed.read_bytes()
    for byte in range(0, len(whole), max(1, len(whole) // 60)):
        packed.write_bytes(whole[:byte] + bytes([whole[byte] ^ 0x55]) + whole[byte + 1 :])
        reader = RunReader(packed)
        for file in reader.files():
            for _ in reader.records(file):
                pass
        with suppress(OSError):
            packing.unpack(packed, keep=True)
            assert content(run) == files  # the changed byte was in a part that is not read
            shutil.rmtree(run)
        packed.write_bytes(whole[:byte])
        RunReader(packed).files()
        assert not run.exists()
    packed.write_bytes(whole)
    packing.unpack(packed)


def test_names_that_lead_elsewhere_are_no_members(tmp_path: Path) -> None:
    import zstandard

    plain = tmp_path / "plain.tar"
    (tmp_path / "secret").write_text("x")
    with tarfile.open(plain, "w") as tar:
        for name in (f"{RUN}/../../evil", "/etc/evil", f"{RUN}/a/../../b", RUN, f"{RUN}/run.json"):
            head = tarfile.TarInfo(name)
            tar.addfile(head)
        link = tarfile.TarInfo(f"{RUN}/tasks.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    packed = tmp_path / "runs" / f"{RUN}.tar.zst"
    packed.parent.mkdir()
    packed.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    assert set(Archive(packed).members) <= {"run.json", "evil"}
    directory = packing.unpack(packed)
    assert {path.name for path in directory.rglob("*")} <= {"run.json", "evil"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.tar", "runs", "secret"]


def test_the_commands_pack_read_clean_and_unpack(run: Path) -> None:
    place = ("--runs-dir", str(run.parent))
    told = scalable("report", *place, "--json").stdout
    packed = scalable("pack", *place, "--json")
    assert packed.exit_code == 0, packed.output
    path = Path(json.loads(packed.stdout)["path"])
    assert path == run.with_name(f"{RUN}.tar.zst")
    assert (
        json.loads(scalable("report", *place, "--json").stdout)["counts"]
        == (json.loads(told)["counts"])
    )
    assert scalable("report", str(path)).exit_code == 0
    assert RUN in scalable("runs", *place).stdout
    assert scalable("diagnose", *place).exit_code == 0
    again = scalable("pack", *place)
    assert again.exit_code == 1
    assert "packed already" in again.output
    assert scalable("unpack", *place, RUN[:20]).exit_code == 0
    assert run.is_dir()
    assert scalable("unpack", *place).exit_code == 1
    scalable("pack", *place)
    assert scalable("clean", *place, "--keep", "0", "--yes").exit_code == 0
    assert list(run.parent.iterdir()) == []


def test_a_run_that_is_recorded_is_not_packed(tmp_path: Path) -> None:
    writer = create(tmp_path)
    result = scalable("pack", str(writer.path))
    assert result.exit_code == 1
    assert "is being recorded" in result.output
    assert writer.path.is_dir()
    writer.close()


def test_a_packed_run_without_zstandard_names_the_extra(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing.pack(run)

    def missing() -> None:
        raise ImportError("zstandard is missing: pip install 'scalable-otel[store]'")

    monkeypatch.setattr("scalable_runs.packed.archive.check_installed", missing)
    (listed,) = FileRoot(run.parent).ids()
    assert listed == RUN
    result = scalable("report", "--runs-dir", str(run.parent))
    assert result.exit_code == 1
    assert "scalable-otel[store]" in result.output


@pytest.mark.parametrize(
    "index",
    [
        [1],
        None,
        {"run.json": 5},
        {"run.json": ["x", 1.0, None, [["a", "b", "c"]]]},
        {"run.json": [3, "x", None, [[0, 10, 3]]]},
        {"run.json": [3.0, 1, None, [[0.0, 10.0, 3.0]]]},
        {"tasks.jsonl": [3, None, None, [[0, 10, 3]]]},
    ],
)
def test_an_index_that_is_none_is_no_more_than_a_damaged_run(run: Path, index: Any) -> None:
    path = packing.pack(run)
    text = json.dumps(index).encode()
    packed = compressed(text)
    end = struct.pack("<II8s", len(packed), len(text), b"scalabl1")
    path.write_bytes(path.read_bytes()[:500] + packed + end)
    (found,) = find_runs(path.parent)
    assert found.summary() is None
    assert [list(found.records(file)) for file in found.files()] in ([], [[]])


@pytest.mark.parametrize("content", [b"x" * 3000, b"", b"\x28\xb5\x2f\xfd" + b"\xff" * 100])
def test_a_file_that_only_has_the_name_of_a_packed_run(run: Path, content: bytes) -> None:
    """It must not end commands that read all runs of a directory."""
    path = packing.pack(run)
    path.write_bytes(content)
    (found,) = find_runs(path.parent)
    assert "cannot be read" in str(found.problems["run.json"].sentences())
    with pytest.raises(OSError, match="cannot be read"):
        packing.unpack(path)
