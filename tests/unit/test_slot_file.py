"""The board of a worker survives its SIGKILL and opens nothing to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap

import pytest

from scalable.instrumentation.slot_file import SlotFile, read_slots


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_what_executes_and_what_has_just_ended_is_read():
    board = SlotFile("worker-1")
    first = board.begin(0, 10.5)
    board.begin(7, 11.5)
    board.end(first)
    assert read_slots("worker-1") == ((0, 10.5), (7, 11.5))
    assert read_slots("worker-1") is None
    board.close()


def test_slots_are_used_again_the_longest_ended_first():
    board = SlotFile("worker")
    slots = [board.begin(number, 1.0) for number in range(255)]
    assert 0 not in slots
    assert board.begin(999, 1.0) == 0
    board.end(slots[3])
    board.end(slots[4])
    assert board.begin(1000, 2.0) == slots[3]
    run_ids = [run_id for run_id, _ in read_slots("worker") or ()]
    assert 3 not in run_ids
    assert {4, 1000} <= set(run_ids)
    board.close()


def test_closed_in_good_order_leaves_nothing(tmp_path):
    board = SlotFile("worker")
    board.begin(1, 1.0)
    board.close()
    assert read_slots("worker") is None
    assert not list(tmp_path.rglob("*.board"))


def abandoned(worker: str) -> None:
    """Leave the board of a worker that was killed."""
    code = f"""if True:
        import os, signal, tempfile
        tempfile.tempdir = {tempfile.gettempdir()!r}
        from scalable.instrumentation.slot_file import SlotFile
        board = SlotFile({worker!r})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def test_boards_of_killed_workers_do_not_stay(tmp_path):
    """Those that nobody reads; never that of a worker that lives."""
    alive = SlotFile("alive")
    abandoned("dead")
    assert len(list(tmp_path.rglob("*.board"))) == 2
    next_one = SlotFile("next")
    # Its scheduler may be about to read it.
    assert len(list(tmp_path.rglob("*.board"))) == 3
    next_one.close()
    assert read_slots("dead") is None
    alive.begin(7, 1.0)
    assert read_slots("alive") == ((7, 1.0),)
    alive.close()


def test_an_old_unread_slot_file_is_removed(tmp_path):
    abandoned("dead")
    (path,) = tmp_path.rglob("*.board")
    os.utime(path, (1.0, 1.0))
    next_one = SlotFile("next")
    assert not path.exists()
    next_one.close()


def test_survives_sigkill(tmp_path):
    code = """
        import os, signal, sys, tempfile
        tempfile.tempdir = sys.argv[1]
        from scalable.instrumentation.slot_file import SlotFile
        board = SlotFile("killed")
        board.begin(41, 5.0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    result = subprocess.run(command, env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
    assert read_slots("killed") == ((41, 5.0),)


@pytest.mark.parametrize("damage", ["cut", "foreign", "link", "directory", "fifo", "open"])
def test_anything_else_reads_as_no_board(tmp_path, damage):
    board = SlotFile("worker")
    board.begin(1, 1.0)
    (path,) = tmp_path.rglob("*.board")
    content = path.read_bytes()
    if damage == "open":
        path.parent.chmod(0o755)
    else:
        path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "foreign":
        path.write_bytes(b"x" * len(content))
    elif damage == "link":
        (tmp_path / "target").write_bytes(content)
        path.symlink_to(tmp_path / "target")
    elif damage == "directory":
        path.mkdir()
    elif damage == "fifo":
        os.mkfifo(path)
    assert read_slots("worker") is None


def test_a_directory_of_another_user_is_refused(tmp_path):
    SlotFile("first").close()
    (directory,) = [path for path in tmp_path.iterdir() if path.name.startswith("scalable-")]
    directory.chmod(0o777)
    with pytest.raises(PermissionError, match="private directory"):
        SlotFile("second")


def test_a_hostile_worker_id_stays_in_the_directory(tmp_path):
    board = SlotFile("../../../etc/passwd\0\ud800")
    (path,) = tmp_path.rglob("*.board")
    assert path.parent.parent == tmp_path
    board.close()
