"""Places of objects that need no server: memory and directories."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scalable.testing import RunStoreConformance
from scalable_runs.stores import RunStore
from scalable_runs.stores.directory import DirectoryObjects
from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.stores.objects import AzureObjects, GoogleObjects, S3Objects


class TestMemory(RunStoreConformance):
    @pytest.fixture
    def store(self) -> RunStore:
        return MemoryObjects()


def directory(path: Path) -> DirectoryObjects:
    return DirectoryObjects(DirectoryObjects.Config(str(path)))


class TestDirectory(RunStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> RunStore:
        return directory(tmp_path / "remote")


class TestDirectoryWithoutLinks(RunStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
        def no_links(*args: Any, **more: Any) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", no_links)
        return directory(tmp_path / "remote")


def files(path: Path) -> Iterator[str]:
    return (str(found.relative_to(path)) for found in path.rglob("*"))


def test_a_directory_has_plain_files_for_their_owner_alone(tmp_path: Path):
    store = directory(tmp_path / "remote")
    assert store.create("run/a", b"1")
    store.put("run/b", b"2")
    assert sorted(files(tmp_path / "remote")) == ["run", "run/a", "run/b"]
    assert (tmp_path / "remote/run/a").read_bytes() == b"1"
    assert (tmp_path / "remote/run/a").stat().st_mode & 0o777 == 0o600
    store.delete("run/a")
    store.delete("run/b")
    assert list(files(tmp_path / "remote")) == []


def test_a_directory_that_is_not_mounted_is_not_made(tmp_path: Path):
    store = directory(tmp_path / "mnt" / "runs")
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*/mnt: mount it"):
        store.put("a", b"1")
    with pytest.raises(FileNotFoundError):
        store.get("a")
    assert list(store.list()) == []


def test_no_link_leads_out_of_a_directory(tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "remote/file").symlink_to(tmp_path / "outside/secret")
    store = directory(tmp_path / "remote")
    for key in ("folder/secret", "file"):
        with pytest.raises(OSError):
            store.get(key)
    with pytest.raises(OSError):
        store.put("folder/new", b"x")
    assert not store.create("file", b"x")
    store.put("file", b"x")
    assert (tmp_path / "outside/secret").read_bytes() == b"secret"
    assert sorted(files(tmp_path / "outside")) == ["secret"]
    assert [entry.key for entry in store.list()] == ["file"]


def test_a_pipe_in_a_directory_keeps_nobody_waiting(tmp_path: Path):
    store = directory(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        store.get("pipe")
    assert list(store.list()) == []


def test_what_a_killed_writer_left_is_no_object(tmp_path: Path):
    store = directory(tmp_path)
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / ".nfs000000000001").write_bytes(b"removed while it was open")
    (tmp_path / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"x")
    store.put("a", b"1")
    assert [entry.key for entry in store.list()] == ["a"]


def test_a_link_of_which_the_answer_was_lost_has_made_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file server that repeats a request answers that there is such a file."""
    link = os.link

    def twice(*args: Any, **more: Any) -> None:
        link(*args, **more)
        link(*args, **more)

    monkeypatch.setattr(os, "link", twice)
    assert directory(tmp_path).create("a", b"1")
    assert list(files(tmp_path)) == ["a"]


def test_a_full_disk_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = directory(tmp_path)
    store.put("a", b"old")

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space left"):
            store.put("a", b"new")
        with pytest.raises(OSError, match="no space left"):
            store.create("b", b"new")
    assert store.get("a") == b"old"
    assert list(files(tmp_path)) == ["a"]
    assert store.create("b", b"new")


@pytest.mark.parametrize("kind", [S3Objects, GoogleObjects, AzureObjects])
def test_without_the_library_the_error_names_the_extra(kind: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(OSError, match=r"pip install 'scalable-otel\[store\]'"):
        kind(kind.Config("bucket"))


@pytest.mark.parametrize("kind", [MemoryObjects, directory])
def test_a_store_names_its_place(kind: Any, tmp_path: Path):
    store = MemoryObjects() if kind is MemoryObjects else kind(tmp_path)
    assert repr(store) == f"{type(store).__name__}({store.location!r})"
