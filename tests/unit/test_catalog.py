"""The data catalog: what is put there, got from it, refused, and left by killed writers."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.local import LocalFileSystem

from scalable import catalog
from scalable.catalog import Catalog, CatalogError, ChangedError, NotInCatalogError
from scalable.catalog import files as catalog_files
from scalable.catalog.names import spelled, unspelled
from scalable.cli import cli
from scalable.common import digests
from scalable.common.digests import ChangedMeanwhileError, file_digest, measure


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALABLE_CATALOG", raising=False)


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content_of(digest: str, place: Path = Path(".scalable/catalog")) -> Path:
    hexadecimal = digest.removeprefix("sha256:")
    return place / "content" / hexadecimal[:2] / hexadecimal


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


# -- put and get ----------------------------------------------------------------------------------


def test_what_was_put_is_got_and_later_writes_do_not_change_it():
    Path("out.csv").write_bytes(b"a,b\n")
    (entry,) = catalog.put("out.csv")
    assert (entry.name, entry.digest, entry.size_bytes) == ("out.csv", sha(b"a,b\n"), 4)
    with Path("out.csv").open("r+b") as file:  # in place
        file.write(b"X")
    path = catalog.get("out.csv")
    assert path.read_bytes() == b"a,b\n"
    assert path.name == "out.csv"
    assert path.is_absolute()
    assert path.stat().st_mode & 0o222 == 0


def test_a_name_has_versions_and_the_same_content_makes_no_new_one():
    for data in (b"1", b"2", b"2", b"1"):
        Path("x").write_bytes(data)
        catalog.put("x", name="data/x")
    here = Catalog()
    assert [entry.digest for entry in here.versions("data/x")] == [sha(b"1"), sha(b"2"), sha(b"1")]
    assert catalog.get("data/x").read_bytes() == b"1"
    assert catalog.get("data/x", digest=sha(b"2")[:15]).read_bytes() == b"2"
    assert catalog.get(sha(b"2")).read_bytes() == b"2"
    with pytest.raises(NotInCatalogError, match="has no version abcd: it has sha256:6b86b273ff34"):
        catalog.get("data/x", digest="abcd")


def test_a_version_sorts_after_one_of_a_clock_that_is_ahead():
    here = Catalog()
    here.put_bytes(b"1", name="x")
    (version,) = (Path(".scalable/catalog/names") / "x").iterdir()
    version.rename(version.with_name("29991231T235959.999999Z-00000000.json"))
    here.put_bytes(b"2", name="x")
    assert here.read("x") == b"2"


def test_a_directory_keeps_its_paths_and_links():
    Path("out/sub").mkdir(parents=True)
    Path("out/a.csv").write_text("a")
    Path("out/sub/b.csv").write_text("b")
    Path("out/latest").symlink_to("sub/b.csv")
    (entry,) = catalog.put("out", name="tables")
    assert (entry.digest, entry.files, entry.size_bytes) == (measure("out")[1], 3, 2)
    path = catalog.get("tables")
    assert path.name == "tables"
    assert measure(str(path))[1] == entry.digest
    assert (path / "latest").readlink() == Path("sub/b.csv")
    # What somebody adds or replaces under the path is not what is got the next time.
    (path / "more").write_text("more")
    (path / "a.csv").unlink()
    (path / "a.csv").write_text("mine")
    assert measure(str(catalog.get("tables")))[1] == entry.digest


def test_a_pattern_puts_each_match_and_their_common_name_gets_all():
    for name in ("out/a.csv", "out/sub/b.csv", "out/sub/c.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    found = catalog.put("out/**/*.csv", name="tables")
    assert [entry.name for entry in found] == ["tables/a.csv", "tables/sub/b.csv"]
    assert [entry.name for entry in catalog.put("out/*.csv")] == ["out/a.csv"]
    path = catalog.get("tables")
    assert (path / "sub/b.csv").read_text() == "out/sub/b.csv"
    assert sorted(one.name for one in path.iterdir()) == ["a.csv", "sub"]
    assert sorted(one.name for one in catalog.get("tables/sub").iterdir()) == ["b.csv"]
    with pytest.raises(NotInCatalogError, match=r"no file matches out/\*\.parquet"):
        catalog.put("out/*.parquet")


def test_a_file_may_have_the_characters_of_a_pattern():
    Path("a[1].csv").write_text("one")
    Path("a1.csv").write_text("other")
    (entry,) = catalog.put("a[1].csv")
    assert (entry.name, catalog.get("a[1].csv").read_text()) == ("a[1].csv", "one")


def test_bytes_are_put_and_read():
    here = Catalog("elsewhere")
    assert here.put_bytes(b"\0" * 3_000_000, name="zeros", kind="object") == sha(bytes(3_000_000))
    assert here.read("zeros") == bytes(3_000_000)
    assert here.entry("zeros").kind == "object"
    assert here.put_bytes(bytearray(b""), name="none") == sha(b"")
    assert here.read("none") == b""
    assert here.read(sha(bytes(3_000_000))) == bytes(3_000_000)


def test_what_is_not_there_is_refused_with_what_is_close(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="the catalog is empty"):
        catalog.get("yield")
    Path("result.csv").write_text("x")
    catalog.put("result.csv", name="results/yield.csv")
    with pytest.raises(NotInCatalogError, match=r"did you mean 'results/yield\.csv'\?"):
        catalog.get("result/yield.csv")
    with pytest.raises(NotInCatalogError, match=r"did you mean 'results/yield\.csv'\?"):
        catalog.get("yield.csv")
    with pytest.raises(FileNotFoundError, match=r"no file resul\.csv: did you mean 'result\.csv'"):
        catalog.put("resul.csv")
    content_of(sha(b"x")).unlink()
    with pytest.raises(NotInCatalogError, match="is gone from the catalog"):
        catalog.get("results/yield.csv")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a\nb", "x" * 1001, sha(b"")]
)
def test_names_that_lead_elsewhere_are_refused(name: str):
    Path("x").write_text("x")
    with pytest.raises(CatalogError):
        catalog.put("x", name=name)
    assert not Path(".scalable").exists() or not list(Path(".scalable/catalog").rglob("*.json"))


@pytest.mark.parametrize("name", ["a=2Fb", "a/b", ".hidden", "größe/x y%2F", "long/" * 190 + "x"])
def test_every_other_name_is_one_file_name_and_comes_back(name: str):
    assert "/" not in spelled(name)
    assert len(spelled(name)) <= 200
    assert spelled(name) == spelled(name) != spelled(f"{name}!")
    assert len(name) > 200 or unspelled(spelled(name)) == name
    here = Catalog()
    here.put_bytes(b"x", name=name)
    assert list(here.names()) == [name]
    assert catalog.get(name).read_bytes() == b"x"


def test_a_list_of_files_cannot_lead_out_of_its_directory():
    Path("out").mkdir()
    Path("out/a").write_text("a")
    (entry,) = catalog.put("out")
    listed = Path(".scalable/catalog/trees") / f"{entry.digest.removeprefix('sha256:')}.json"
    text = listed.read_text()
    for bad in ('"../a"', '"/a"', '"x/../../a"'):
        overwrite(listed, text.replace('"a"', bad).encode())
        with pytest.raises(ChangedError, match="leads out of the directory"):
            catalog.get("out")
    overwrite(listed, text.replace('"a"', '"b"').encode())
    with pytest.raises(ChangedError, match=r"was changed in the catalog"):
        catalog.get("out")


# -- changes --------------------------------------------------------------------------------------


def test_a_middle_byte_of_a_large_file_is_seen_and_both_digests_named():
    size = 2 * 2**30
    with Path("large").open("wb") as file:
        file.truncate(size)
    (entry,) = catalog.put("large")
    content = content_of(entry.digest)
    assert content.stat().st_blocks * 512 < 2**20  # its holes are kept
    content.chmod(0o644)
    with content.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\1")
    os.utime(content, ns=(entry.size_bytes, entry.size_bytes))
    with pytest.raises(ChangedError) as caught:
        catalog.get("large")
    assert caught.value.expected == entry.digest
    assert caught.value.found != entry.digest
    for digest in (caught.value.expected, caught.value.found):
        assert digest in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_changed_content_is_found_by_verify_and_mended_by_putting_it_again():
    here = Catalog()
    Path("x").write_bytes(b"right")
    here.put("x")
    here.put_bytes(b"other", name="y")
    assert list(here.verify()) == []
    overwrite(content_of(sha(b"right")), b"wrong")
    (changed,) = here.verify()
    assert (changed.what, changed.names) == ("content", ("x",))
    assert (changed.expected, changed.found) == (sha(b"right"), sha(b"wrong"))
    assert list(here.verify("y")) == []
    here.put("x")
    assert list(here.verify()) == []
    assert catalog.get("x").read_bytes() == b"right"
    content_of(sha(b"other")).unlink()
    (gone,) = here.verify()
    assert (gone.names, gone.found) == (("y",), "gone")


def test_a_version_that_cannot_be_read_is_told_and_the_one_before_counts():
    here = Catalog()
    here.put_bytes(b"1", name="x")
    here.put_bytes(b"2", name="x")
    latest = max((Path(".scalable/catalog/names") / "x").iterdir())
    overwrite(latest, b'{"digest": ')
    assert here.read("x") == b"1"
    assert [changed.what for changed in here.verify()] == ["version"]


# -- digests --------------------------------------------------------------------------------------


def settle(path: Path) -> None:
    """Wait until the times of a file are old enough to tell of each change."""
    while time.time_ns() - path.stat().st_ctime_ns < digests.SETTLED_NS:
        time.sleep(0.05)


def test_a_digest_is_remembered_until_the_file_changes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 20_000_000)
    monkeypatch.setattr(digests, "_WORTH_A_FILE", 1)
    reads: list[int] = []
    consume = digests.consume

    def counting(file: Any) -> tuple[int, str]:
        reads.append(1)
        return consume(file)

    monkeypatch.setattr(digests, "consume", counting)
    path, kept = Path("x"), Path("kept")
    path.write_bytes(b"one")
    settle(path)
    for _ in range(3):
        assert file_digest(path, kept_in=kept) == (3, sha(b"one"))
    assert len(reads) == 1
    digests.forget()  # as in another process
    assert file_digest(path, kept_in=kept) == (3, sha(b"one"))
    assert len(reads) == 1
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(path, kept_in=kept) == (3, sha(b"two"))
    assert len(reads) == 2


def test_a_file_that_has_just_changed_is_read_again():
    path = Path("x")
    path.write_bytes(b"one")
    assert file_digest(path)[1] == sha(b"one")
    assert digests.recall(path) is None


class Growing:
    """Appends to a file each time that a part of it was read."""

    def __init__(self, path: Path, times: int) -> None:
        self.path, self.left = path, times

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            with self.path.open("ab") as file:
                file.write(b"+")


@pytest.mark.parametrize("times", [1, 1000])
def test_a_file_that_changes_while_it_is_read_is_read_again_or_refused(
    monkeypatch: pytest.MonkeyPatch, times: int
):
    path = Path("x")
    path.write_bytes(b"x" * 100)
    grow = Growing(path, times)
    consume = digests.consume

    def consuming(*arguments: Any):
        found = consume(*arguments)
        grow()
        return found

    monkeypatch.setattr(digests, "consume", consuming)
    monkeypatch.setattr(catalog_files, "consume", consuming)
    if times == 1:
        (entry,) = catalog.put("x")
        assert entry.digest == sha(b"x" * 100 + b"+")
    else:
        with pytest.raises(ChangedMeanwhileError, match="changed while it was read"):
            catalog.put("x")
    assert list(Path(".scalable/catalog/tmp").glob("*")) == []


def test_a_pipe_is_refused_and_never_waited_for():
    os.mkfifo("pipe")
    with pytest.raises(OSError, match="neither a file nor a directory"):
        catalog.put("pipe")


# -- many writers, killed writers -----------------------------------------------------------------


def _put_at(barrier: threading.Barrier, place: str, number: int) -> None:
    here = Catalog(place)
    barrier.wait(60)
    here.put_bytes(b"the same" * 10_000, name="same")
    here.put_bytes(str(number).encode() * 10_000, name="different")
    assert here.read("same") == b"the same" * 10_000


def test_thirty_two_writers_at_once(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(32)
    writers = [
        context.Process(target=_put_at, args=(barrier, str(tmp_path / "place"), number))
        for number in range(32)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0] * 32
    here = Catalog(tmp_path / "place")
    assert {entry.digest for entry in here.versions("different")} == {
        sha(str(number).encode() * 10_000) for number in range(32)
    }
    assert {entry.digest for entry in here.versions("same")} == {sha(b"the same" * 10_000)}
    assert list(here.verify()) == []
    assert list((tmp_path / "place/tmp").iterdir()) == []


def _put_for_ever(place: str, seed: int, started: Any) -> None:
    here = Catalog(place)
    started.set()
    for number in range(10**9):
        Path("out", "a").write_bytes(f"{seed} {number}".encode() * 20_000)
        here.put("out", name="out")
        here.put_bytes(f"{seed} {number}".encode(), name="number")
        here.get("out")


def test_a_killed_writer_leaves_nothing_torn(tmp_path: Path):
    Path("out").mkdir()
    place = tmp_path / "place"
    context = multiprocessing.get_context("fork")
    moments = random.Random(7)
    for seed in range(60):
        started = context.Event()
        writer = context.Process(target=_put_for_ever, args=(str(place), seed, started))
        writer.start()
        assert started.wait(60)
        time.sleep(moments.uniform(0, 0.03))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
        with contextlib.suppress(NotInCatalogError):
            Catalog(place).get("out")
    here = Catalog(place)
    assert list(here.verify()) == []
    for name in here.names():
        for entry in here.versions(name):
            here.get(name, digest=entry.digest)
    # What they left is removed once it is old.
    temporary = place / "tmp"
    for path in temporary.iterdir():
        os.utime(path, (0, 0))
    catalog_files.remove_abandoned(temporary)
    assert list(temporary.iterdir()) == []


# -- places ---------------------------------------------------------------------------------------


def test_the_place_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SCALABLE_CATALOG", f"file://{tmp_path}/shared")
    Path("x").write_text("x")
    catalog.put("x")
    assert Catalog(tmp_path / "shared").read("x") == b"x"
    assert Catalog().location == str(tmp_path / "shared")


def test_a_place_elsewhere_is_copied_to_checked_and_kept_here():
    memory = fsspec.filesystem("memory")
    there = Catalog("memory://bucket/catalog")
    Path("out").mkdir()
    Path("out/a.csv").write_bytes(b"a" * 1000)
    there.put("out")
    there.put("out/a.csv", name="a")
    assert there.get("out").joinpath("a.csv").read_bytes() == b"a" * 1000
    assert list(there.verify()) == []
    path = f"/bucket/catalog/{content_of(sha(b'a' * 1000), Path()).as_posix()}"
    with memory.open(path, "wb") as file:
        file.write(b"b" * 1000)
    (changed,) = there.verify()
    assert changed.found == sha(b"b" * 1000)
    content_of(sha(b"a" * 1000)).unlink()  # on another machine
    with pytest.raises(ChangedError, match=sha(b"b" * 1000)):
        there.get("a")
    there.put("out/a.csv", name="a")
    assert list(there.verify()) == []


def test_a_storage_that_needs_a_package_names_it():
    import importlib.util

    if importlib.util.find_spec("gcsfs") is None:
        with pytest.raises(CatalogError, match="pip install gcsfs"):
            Catalog("gs://bucket/catalog")
    with pytest.raises(CatalogError, match="nosuch"):
        Catalog("nosuch://bucket/catalog")


def test_secrets_in_names_places_and_paths_are_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    secret = "hunter2Xk9vQ"
    with pytest.raises(CatalogError) as caught:
        Catalog().put_bytes(b"x", name=f"password={secret}")
    assert secret not in str(caught.value)
    folder = tmp_path / f"token={secret}"
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    catalog.put(folder / "x", name="x")
    with pytest.raises(CatalogError) as caught:
        catalog.put(tmp_path, name="all")
    assert secret not in str(caught.value)
    with pytest.raises(CatalogError) as caught:
        Catalog(f"ftp://me:{secret}@127.0.0.1:1/catalog").get("x")
    assert secret not in f"{caught.value!r}"
    assert caught.value.__cause__ is None
    for place in (f"://me:{secret}@x", f"s3://key:{secret}@"):
        monkeypatch.setenv("SCALABLE_CATALOG", place)
        for words in (["config"], ["catalog", "list"]):
            assert secret not in CliRunner().invoke(cli, words).output
    kept = Path(".scalable").rglob("*")
    assert all(secret.encode() not in path.read_bytes() for path in kept if path.is_file())


def test_a_storage_that_shows_parts_gets_its_files_by_renaming(tmp_path: Path):
    class Watched(LocalFileSystem):
        """Says under which names files are written."""

        written: ClassVar[list[str]] = []
        protocol = "watched"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("watched://")

        def put_file(self, lpath: str, rpath: str, *rest: Any, **more: Any) -> None:
            self.written.append(str(rpath))
            super().put_file(lpath, rpath, *rest, **more)

    fsspec.register_implementation("watched", Watched, clobber=True)
    place = f"watched://{tmp_path}/there"
    Path("x").write_bytes(b"x" * 100)
    there = Catalog(place)
    there.put("x")
    assert there.get("x").read_bytes() == b"x" * 100
    assert Watched.written
    assert all("/there/tmp/" in name for name in Watched.written)
    assert Catalog(tmp_path / "there").read("x") == b"x" * 100
    assert list((tmp_path / "there/tmp").iterdir()) == []
