"""Processes that are not children of this one."""

from __future__ import annotations

import threading

from scalable.common.processes import Detached
from scalable_runs._process import ProcessHandle


def test_two_threads_may_end_a_process_at_once(monkeypatch):
    """Closing a descriptor twice could close one that another thread has just opened."""
    process = Detached(["/bin/sleep", "60"])
    both, inside, most = threading.Barrier(2, timeout=10), 0, 0
    has_ended = ProcessHandle.has_ended

    def counted(self: ProcessHandle, timeout: float = 0.0) -> bool:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            # Long enough for the other thread to come in, if it may.
            threading.Event().wait(0.2)
            return has_ended(self, timeout)
        finally:
            inside -= 1

    monkeypatch.setattr(ProcessHandle, "has_ended", counted)
    failed: list[BaseException] = []

    def end() -> None:
        try:
            both.wait()
            process.end()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=end) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert most == 1
    assert ProcessHandle(process.pid).has_ended(10)
