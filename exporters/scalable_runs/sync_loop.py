"""The thread that syncs a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

#: A storm of failures asks for a sync each; the store sees at most ten a second.
MIN_GAP: Final = 0.1


class SyncLoop:
    """Syncs on a timer and at once when asked; a daemon thread of its own. Any thread may call it.

    Parameters
    ----------
    name
        The thread's name.
    interval
        Seconds between two syncs.
    sync
        Called on the thread; returns whether everything is durable. It must not raise.
    finish
        Called once on the thread, at the end; if the thread was never started, or has died in a
        fork, by :meth:`close`. It must not raise.
    """

    def __init__(
        self, name: str, interval: float, sync: Callable[[], bool], finish: Callable[[], None]
    ) -> None:
        self._interval = interval
        self._sync = sync
        self._finish = finish
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._done = threading.Condition()
        #: Syncs that were waited for, and how many of them are done.
        self._asked = 0
        self._answered = 0
        self._last_was_good = True
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def request(self) -> None:
        """Ask for a sync now, and do not wait for it."""
        self._wake.set()

    def wait(self, timeout: float | None) -> bool:
        """Ask for a sync now; return whether it was done within `timeout` seconds, and good."""
        with self._done:
            self._asked += 1
            asked = self._asked
            self._wake.set()
            in_time = self._done.wait_for(lambda: self._answered >= asked, timeout)
            return in_time and self._last_was_good

    def close(self, timeout: float) -> bool:
        """Finish; return whether that took at most `timeout` seconds. It continues after that."""
        self._closing.set()
        self._wake.set()
        if self.thread is threading.current_thread():
            return True
        if self.thread.is_alive():
            self.thread.join(timeout)
        else:
            self._end()
        return not self.thread.is_alive()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._closing.is_set():
                break
            with self._done:
                asked = self._asked
            self._answer(asked, self._sync())
            self._closing.wait(MIN_GAP)
        self._end()

    def _end(self) -> None:
        self._finish()
        self._answer(None, good=False)

    def _answer(self, asked: int | None, good: bool) -> None:
        """Let those go on who wait for the first `asked` syncs; None: for any."""
        with self._done:
            self._answered = self._asked if asked is None else asked
            self._last_was_good = good
            self._done.notify_all()
