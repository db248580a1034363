"""Results kept on disk: what decides, what is shared, what survives."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from click.testing import CliRunner

from scalable import DirType, FileType, cacheable
from scalable.cache import cacheable as decorator
from scalable.cache.store import Store, cache_directory, cache_limit, set_directory
from scalable.cli import cli


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SCALABLE_CACHE_DIR", str(tmp_path / "kept"))
    decorator._warned.clear()
    Store._unseen.clear()
    yield tmp_path / "kept"
    # One that a test has made unreadable must not keep pytest from clearing up.
    for path in (tmp_path / "kept").rglob("*"):
        path.chmod(0o700)


def test_a_result_is_computed_once_for_the_same_arguments():
    calls: list[Any] = []

    @cacheable
    def add(a: int, b: int = 2, **more: int) -> int:
        calls.append((a, b))
        return a + b + sum(more.values())

    assert [add(1), add(1, 2), add(a=1, b=2), add(1, b=2)] == [3] * 4
    assert len(calls) == 1
    assert (add(1, 3), add(1, c=5), add(1, c=5)) == (4, 8, 8)
    assert len(calls) == 3
    assert add.__name__ == "add"


def test_another_source_version_or_closure_is_another_function(tmp_path: Path):
    counter = str(tmp_path / "n")

    def make(version: int, offset: int) -> Any:
        @cacheable(version=version)
        def shift(a: int) -> int:
            _counted(counter)
            return a + offset

        return shift

    assert [make(1, 5)(1), make(1, 5)(1)] == [6, 6]
    assert Path(counter).stat().st_size == 1
    assert make(2, 5)(1) == 6
    assert make(1, 7)(1) == 8
    assert Path(counter).stat().st_size == 3


def test_a_changed_helper_or_constant_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    helper = tmp_path / "cache_helper.py"
    source = "RATE = {}\n\n\ndef scaled(x):\n    return x * RATE\n"
    (tmp_path / "cache_model.py").write_text(
        "from pathlib import Path\n\nimport cache_helper\nfrom scalable import cacheable\n\n\n"
        "@cacheable\ndef load(x, counter):\n"
        "    with Path(counter).open('a') as file:\n        file.write('.')\n"
        "    return cache_helper.scaled(x)\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    counter = tmp_path / "n"

    def load(text: str) -> int:
        helper.write_text(text)
        importlib.invalidate_caches()
        for name in ("cache_helper", "cache_model"):
            sys.modules.pop(name, None)
        return importlib.import_module("cache_model").load(2, str(counter))

    assert [load(source.format(3)), load("# A comment.\n" + source.format(" 3"))] == [6, 6]
    assert counter.stat().st_size == 1
    assert load(source.format(4)) == 8
    assert load(source.format(4).replace("x * RATE", "x + RATE")) == 6
    assert counter.stat().st_size == 3
    for name in ("cache_helper", "cache_model"):
        sys.modules.pop(name, None)


def _counted(path: str) -> None:
    with Path(path).open("ab") as file:
        file.write(b".")


def test_files_and_directories_count_by_content(tmp_path: Path):
    counter = str(tmp_path / "n")

    @cacheable(source=FileType, tree=DirType)
    def read(source: str, tree: str) -> str:
        _counted(counter)
        return Path(source).read_text() + str(sorted(p.name for p in Path(tree).iterdir()))

    one, other, tree = tmp_path / "a", tmp_path / "b", tmp_path / "t"
    one.write_text("same")
    other.write_text("same")
    tree.mkdir()
    assert read(str(one), str(tree)) == read(str(other), str(tree)) == "same[]"
    assert Path(counter).stat().st_size == 1
    one.write_text("changed")
    (tree / "new").touch()
    assert read(str(one), str(tree)) == "changed['new']"
    (tree / "new").rename(tree / "old")
    assert read(str(one), str(tree)) == "changed['old']"
    assert Path(counter).stat().st_size == 3


def test_a_file_or_directory_that_a_function_wrote_is_put_back(tmp_path: Path):
    counter = str(tmp_path / "n")

    @cacheable(return_type=FileType)
    def write(text: str, target: str) -> str:
        _counted(counter)
        Path(target).write_text(text)
        return target

    @cacheable(return_type=DirType)
    def grow(names: tuple[str, ...], target: str) -> str:
        _counted(counter)
        Path(target).mkdir()
        for name in names:
            (Path(target) / name).write_text(name)
        return target

    file, tree = str(tmp_path / "out.txt"), str(tmp_path / "out")
    write("hello", file)
    grow(("a", "b"), tree)
    Path(file).write_text("spoiled")
    (Path(tree) / "a").unlink()
    assert Path(write("hello", file)).read_text() == "hello"
    assert sorted(p.name for p in Path(grow(("a", "b"), tree)).iterdir()) == ["a", "b"]
    assert Path(counter).stat().st_size == 2


def test_what_cannot_be_kept_is_returned_all_the_same(
    caplog: pytest.LogCaptureFixture, directory: Path, tmp_path: Path
):
    @cacheable
    def make(number: int) -> Any:
        return lambda: number

    @cacheable(source=FileType)
    def size(source: str) -> int:
        return 7

    assert make(3)() == 3
    assert make(4)() == 4
    assert size(str(tmp_path / "missing")) == 7
    assert [record.message.count("not cached") for record in caplog.records] == [1, 1]
    assert list(Store(directory).entries()) == []
    assert not [p for p in directory.rglob("*") if p.is_file()]


def test_an_exception_is_not_kept():
    calls: list[int] = []

    @cacheable
    def fail(number: int) -> int:
        calls.append(number)
        raise ValueError(number)

    for _ in range(2):
        with pytest.raises(ValueError, match="3"):
            fail(3)
    assert calls == [3, 3]


def test_an_argument_that_the_function_does_not_have_is_an_error():
    with pytest.raises(TypeError, match=r"has no argument 'path'; it has source"):

        @cacheable(path=FileType)
        def read(source: str) -> str:
            return source


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "meta"])
def test_a_damaged_entry_is_computed_anew(damage: str, directory: Path):
    calls: list[int] = []

    @cacheable
    def square(number: int) -> int:
        calls.append(number)
        return number * number

    assert square(7) == 49
    (entry,) = Store(directory).entries()
    result = entry.path / "result.joblib"
    if damage == "meta":
        (entry.path / "meta.json").write_text("{")
    else:
        kept = result.read_bytes()
        result.write_bytes(
            {"cut": kept[:-3], "empty": b"", "noise": b"\xff" + os.urandom(63)}[damage]
        )
    assert square(7) == 49
    assert square(7) == 49
    assert len(calls) == 2


def test_entries_stay_below_the_limit_and_the_oldest_go_first(directory: Path):
    store = Store(directory, limit=1_000_000)
    for number in range(30):
        digest = f"{number:064x}"
        store.save(digest, os.urandom(100_000), None, "f", 0.0)
        os.utime(store._path(digest), (number, number))
    entries = sorted(store.entries(), key=lambda entry: entry.used)
    assert sum(entry.size for entry in entries) <= 1_000_000
    kept = {int(entry.path.name, 16) for entry in entries}
    assert max(kept) == 29
    assert kept == set(range(30 - len(kept), 30))


def test_what_a_killed_process_left_is_cleared_away(directory: Path):
    store = Store(directory)
    store.save("ab" * 32, 1, None, "f", 0.0)
    left = directory / "v1" / "ab" / "tmp-left"
    left.mkdir()
    (left / "result.joblib").write_bytes(b"half")
    os.utime(left, (1, 1))
    store.save("ac" * 32, 2, None, "f", 0.0)
    store._unseen.clear()
    store.save("ad" * 32, 3, None, "f", 0.0)
    assert not left.exists()
    assert len(list(store.entries())) == 3


def test_where_and_how_much(monkeypatch: pytest.MonkeyPatch, directory: Path, tmp_path: Path):
    assert cache_directory() == directory
    assert cache_directory(tmp_path) == tmp_path
    monkeypatch.delenv("SCALABLE_CACHE_DIR")
    before = set_directory(tmp_path / "session")
    assert cache_directory() == tmp_path / "session"
    set_directory(before)
    assert cache_directory() == Path(".scalable/cache")
    assert cache_limit() == 10**10
    monkeypatch.setenv("SCALABLE_CACHE_LIMIT", "2GiB")
    assert cache_limit() == 2**31


# -- many processes -------------------------------------------------------------------------------


@cacheable
def shared(number: int, counter: str) -> bytes:
    """Large enough that writing it takes a while."""
    _counted(counter)
    return bytes([number]) * 3_000_000


def _hammer(counter: str, die: bool) -> None:
    if die:
        real = os.fsync

        def fatal(descriptor: int) -> None:
            real(descriptor)
            os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = fatal  # in the middle of writing an entry
    for _ in range(5):
        for number in range(4):
            assert shared(number, counter) == bytes([number]) * 3_000_000


def test_eight_processes_on_the_same_keys_one_of_them_killed(directory: Path, tmp_path: Path):
    context = multiprocessing.get_context("fork")
    counter = str(tmp_path / "n")
    processes = [
        context.Process(target=_hammer, args=(counter, number == 0)) for number in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    assert codes == [-signal.SIGKILL, *[0] * 7]
    assert len(list(Store(directory).entries())) == 4
    # Each of the living computed a key at most once.
    assert 4 <= Path(counter).stat().st_size <= 8 * 4
    assert shared(3, counter) == bytes([3]) * 3_000_000


# -- commands -------------------------------------------------------------------------------------


def test_cache_info_and_clear(directory: Path):
    @cacheable
    def one(number: int) -> int:
        return number

    @cacheable
    def two(number: int) -> bytes:
        return bytes(10_000)

    for number in range(3):
        one(number)
        two(number)
    runner = CliRunner()
    shown = runner.invoke(cli, ["cache", "info"])
    assert shown.exit_code == 0, shown.output
    assert "6 results" in shown.output
    assert str(directory) in shown.output
    assert "two" in shown.output
    done = runner.invoke(cli, ["cache", "clear", "--function", "test_cache.nothing", "--yes"])
    assert "Removed 0 results" in done.output
    named = f"{__name__}.test_cache_info_and_clear.<locals>.one"
    assert (
        "Removed 3 results"
        in runner.invoke(cli, ["cache", "clear", "--function", named, "--yes"]).output
    )
    assert len(list(Store(directory).entries())) == 3
    refused = runner.invoke(cli, ["cache", "clear"], input="n\n")
    assert refused.exit_code == 1
    assert f"Remove 3 results, 30.5 kB, from {directory}?" in refused.output
    assert "Nothing was removed." in refused.output
    unanswered = runner.invoke(cli, ["cache", "clear"], input="")
    assert unanswered.exit_code == 1
    assert "--yes removes without asking" in unanswered.output
    assert len(list(Store(directory).entries())) == 3
    assert "Removed 3 results" in runner.invoke(cli, ["cache", "clear", "--yes"]).output
    assert "holds nothing" in runner.invoke(cli, ["cache", "info"]).output
    empty = runner.invoke(cli, ["cache", "clear"])
    assert (empty.exit_code, empty.output) == (0, f"{directory} holds nothing to remove.\n")


# Whose results they are

MODES = [0o000, 0o002, 0o022]


@pytest.fixture(params=MODES, ids=[f"umask-{mask:03o}" for mask in MODES])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_entries_are_their_users_alone_whatever_the_umask(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCALABLE_CACHE_DIR", str(tmp_path / ".scalable" / "cache"))
    output = tmp_path / "output.txt"

    @cacheable
    def plain(a: int) -> int:
        return a

    @cacheable(return_type=FileType)
    def written(a: int) -> str:
        output.write_text(str(a))
        return str(output)

    assert (plain(1), written(2)) == (1, str(output))
    made = [tmp_path / ".scalable", *(tmp_path / ".scalable").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}


def test_directories_that_an_earlier_version_left_open_are_closed(directory: Path):
    @cacheable
    def plain(a: int) -> int:
        return a

    plain(1)
    (directory / "v1").chmod(0o777)
    plain(2)
    assert (directory / "v1").stat().st_mode & 0o777 == 0o700


class Planted:
    """Runs when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def __reduce__(self) -> Any:
        return (Path.touch, (self._flag,))


def _other_owner(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize("what", ["file", "entry", "shard", "v1"])
@pytest.mark.parametrize("how", ["writable", "owner"])
def test_files_that_another_user_could_have_written_are_not_unpickled(
    what: str, how: str, directory: Path, tmp_path: Path
):
    calls: list[int] = []

    @cacheable
    def plain(a: int) -> int:
        calls.append(a)
        return a

    plain(1)
    (result,) = directory.rglob("result.joblib")
    flag = tmp_path / "ran"
    joblib.dump(Planted(flag), result)
    place = {
        "file": result,
        "entry": result.parent,
        "shard": result.parents[1],
        "v1": result.parents[2],
    }[what]
    if how == "owner":
        _other_owner(place)
    else:
        place.chmod(place.stat().st_mode | 0o020)
    assert plain(1) == 1
    assert calls == [1, 1]
    assert not flag.exists()


def test_a_link_in_the_place_of_a_result_is_not_followed(directory: Path, tmp_path: Path):
    @cacheable
    def plain(a: int) -> int:
        return a

    plain(1)
    (result,) = directory.rglob("result.joblib")
    joblib.dump(5, tmp_path / "other")
    (tmp_path / "other").chmod(0o600)
    result.unlink()
    result.symlink_to(tmp_path / "other")
    assert plain(1) == 1


@pytest.mark.parametrize("name", ["meta.json", "result.joblib"])
def test_a_pipe_in_the_place_of_a_file_is_never_waited_for(name: str, directory: Path):
    @cacheable
    def plain(a: int) -> int:
        return a

    plain(1)
    (path,) = directory.rglob(name)
    path.unlink()
    os.mkfifo(path)
    shown = CliRunner().invoke(cli, ["cache", "info"])
    assert shown.exit_code == 0
    assert plain(1) == 1
    assert not path.is_fifo()  # it was removed, and the result kept anew


def test_a_pipe_in_the_place_of_a_kept_file_is_never_waited_for(directory: Path, tmp_path: Path):
    output = tmp_path / "output.txt"

    @cacheable(return_type=FileType)
    def written(a: int) -> str:
        output.write_text(str(a))
        return str(output)

    written(1)
    (path,) = directory.rglob("content")
    path.unlink()
    os.mkfifo(path)
    assert written(1) == str(output)
    assert output.read_text() == "1"
