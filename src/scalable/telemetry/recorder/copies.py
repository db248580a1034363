"""The places that a run is copied to while it is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

from scalable_runs.remote.background import Shipping, start_shipping
from scalable_runs.remote.shared_run import RunElsewhere
from scalable_runs.stores.places import StoreSpec
from scalable_runs.writer import RunWriter

#: Shortest time for copying what is left at close, in seconds.
MIN_FINISH_TIMEOUT: Final = 0.5
#: Longest time for copying what is left of a run whose program is gone, in seconds.
LEAVE_TIMEOUT: Final = 10.0


def start_copies(
    place: StoreSpec | None,
    writer: RunWriter,
    warn: Callable[[str], None],
    *,
    keep: bool = True,
) -> Copies:
    """Begin to copy a run that is written on this machine.

    Parameters
    ----------
    place
        Where to; None: nowhere.
    writer
        Writes the run, or this program's part of it.
    warn
        Tells the user.
    keep
        Whether the part of a run that is shared there stays on this machine after a clean close.
    """
    shared = writer.shared
    elsewhere = shared if isinstance(shared, RunElsewhere) else None
    shippings: list[Shipping] = []
    if place is not None:
        shippings.append(
            start_shipping(
                place.location,
                place.opened if elsewhere is None else elsewhere.opened,
                writer.store,
                run_id=writer.run_id,
                writer=None if shared is None else shared.writer,
                compress=bool(place.config.get("compress")),
                warn=warn,
                join=None if elsewhere is None else elsewhere.join_again,
                end=None if elsewhere is None else partial(elsewhere.end, keep=keep),
            )
        )
    return Copies(writer.run_id, warn, shippings, elsewhere)


class Copies:
    """The copies of one run; called by the recorder's thread, which waits only at the end.

    Parameters
    ----------
    run_id
        The run's id.
    warn
        Tells the user.
    shippings
        What brings it to each place.
    elsewhere
        The run, if several programs write it and only these places have all of it.
    """

    def __init__(
        self,
        run_id: str,
        warn: Callable[[str], None],
        shippings: Sequence[Shipping] = (),
        elsewhere: RunElsewhere | None = None,
    ) -> None:
        self._run_id = run_id
        self._shippings = shippings
        self._warn = warn
        self._elsewhere = elsewhere

    def document(self) -> dict[str, Any]:
        """Return what each copy lacks, by its place."""
        return {shipping.location: shipping.document() for shipping in self._shippings}

    def request(self) -> None:
        """Ask for what is in the files now to be copied."""
        for shipping in self._shippings:
            shipping.request()

    def before_leaving(self, deadline: float) -> None:
        """Bring what is in the files of a part now, before others are told that it is there."""
        if self._elsewhere is None:
            return
        end = max(deadline, monotonic() + MIN_FINISH_TIMEOUT)
        for shipping in self._shippings:
            if not shipping.flush(min(LEAVE_TIMEOUT, max(0.0, end - monotonic()))):
                self._elsewhere.stay()

    def finish(self, deadline: float) -> None:
        """Copy what is left of a closed run; later `scalable sync` can do that."""
        for shipping in self._shippings:
            shipping.begin_finish()
        end = max(deadline, monotonic() + MIN_FINISH_TIMEOUT)
        for shipping in self._shippings:
            if not shipping.finish(max(0.0, end - monotonic())):
                self._warn(
                    f"the copy of the run in {shipping.location} is not complete; the run is, on "
                    f"this machine. Later: scalable sync {self._run_id}"
                )

    def leave(self) -> None:
        """Copy what was received of a run that stays open."""
        for shipping in self._shippings:
            shipping.finish(LEAVE_TIMEOUT)
