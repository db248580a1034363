"""Facts → signals: what each fact means for the life of a task or a worker.

No thread, no clock and no I/O: the same facts give the same signals.
"""

from scalable.telemetry.ledger.ledger import Ledger, UnknownEnds

__all__ = ["Ledger", "UnknownEnds"]
