"""How many tasks and layers the graphs of each submission have."""

from __future__ import annotations

from typing import Final

#: Submissions whose sizes are kept at most.
MAX_SIZES: Final = 10_000


class GraphSize:
    """Tasks of one submission that the scheduler has reported so far."""

    __slots__ = ("layers", "tasks")

    def __init__(self) -> None:
        self.tasks = 0
        #: Dask's groups that they are in; 0 where those are not followed.
        self.layers = 0


class GraphSizes:
    """Counts tasks by the span id of their submission; called by the recorder's thread only."""

    def __init__(self) -> None:
        self._sizes: dict[int, GraphSize] = {}

    def add(self, submission: int, *, new_layer: bool) -> None:
        """Count a task; `new_layer`: it is the first one of its layer."""
        size = self._sizes.get(submission)
        if size is None:
            size = self._sizes[submission] = GraphSize()
            if len(self._sizes) > MAX_SIZES:
                del self._sizes[next(iter(self._sizes))]
        size.tasks += 1
        size.layers += new_layer

    def get(self, submission: int) -> GraphSize | None:
        """What is known of a submission; None for nothing."""
        return self._sizes.get(submission)

    def forget(self, submission: int) -> None:
        """Remove what is known of a submission."""
        self._sizes.pop(submission, None)
