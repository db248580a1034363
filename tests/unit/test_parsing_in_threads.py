"""Sources that several threads of a worker parse at the same time."""

from __future__ import annotations

import ast
import gc
import sys
import threading
import time
from pathlib import Path
from typing import Any

from scalable.code.modules import parse


def test_threads_that_parse_at_once_do_not_disturb_each_other() -> None:
    text = Path(str(ast.__file__)).read_text()[:60_000].rpartition("\ndef ")[0]
    failed: list[BaseException] = []

    def pause(*_: Any) -> None:
        # Dask has such a callback, too: other threads run in the middle of a conversion.
        time.sleep(0)

    def work() -> None:
        try:
            for _ in range(5):
                parse("ast.py", text)
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    gc.callbacks.append(pause)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(pause)
        sys.setswitchinterval(interval)
    assert failed == []
