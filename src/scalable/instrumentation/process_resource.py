"""The resource of a process of the cluster: what OpenTelemetry's own detectors find there.

Detectors (``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS``) may ask services of a cloud, so they run in a
thread, once per process. What they find holds for everything that the process relays.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any, Final

from scalable.common.forks import no_fork
from scalable.common.guard import Guard
from scalable.common.otel_environment import usable_environment

#: Errors of this module, in any run of the process.
guard: Final = Guard()


class ProcessResource:
    """Describes one process; made and read by its event loops, written by a thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        #: The detectors have answered.
        self.is_complete = False
        self._attributes = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME"),
            # Read by the recorder where no detector has done so.
            "attributes": os.environ.get("OTEL_RESOURCE_ATTRIBUTES"),
            "host.name": socket.gethostname(),
            "process.pid": self.pid,
        }
        self._thread = threading.Thread(target=self._detect, name="scalable-resource", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the detectors have answered, for `timeout` seconds at most."""
        self._thread.join(timeout)
        return self.is_complete

    def attributes(self) -> dict[str, Any]:
        """What is known of the process by now, by the names of OpenTelemetry's conventions."""
        return self._attributes

    def _detect(self) -> None:
        try:
            with usable_environment():
                # A process forked during the import would wait for ever for its end.
                with no_fork:
                    from scalable.instrumentation.detectors import detected
                found = detected()
            self._attributes = {
                "host.name": self._attributes["host.name"],
                "process.pid": self.pid,
                **found,
            }
        except BaseException as error:
            guard.failed("resource", error)
        finally:
            self.is_complete = True


_here: ProcessResource | None = None


def process_resource() -> ProcessResource:
    """The resource of this process; at the first call its detectors begin to run."""
    global _here
    if _here is None or _here.pid != os.getpid():
        _here = ProcessResource()
    return _here
