"""What the program submits: its submissions, and the blocks of Dask's ``span()`` around them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic

from scalable.telemetry.ledger.blocks import Blocks
from scalable.telemetry.recorder.puller import FactPuller
from scalable.telemetry.recorder.router import SignalRouter
from scalable.telemetry.signals.dask_spans import LeftSpan
from scalable.telemetry.submissions.submission_spans import SubmissionSpans
from scalable.telemetry.submissions.submissions import SentGraphs


class SubmittedWork:
    """Takes what the program's threads have submitted; called by the recorder's thread only."""

    def __init__(
        self,
        submissions: SentGraphs,
        spans: SubmissionSpans,
        blocks: Blocks,
        router: SignalRouter,
        puller: FactPuller,
        clock: Callable[[], float],
    ) -> None:
        self._submissions = submissions
        self._spans = spans
        self._blocks = blocks
        self._router = router
        self._puller = puller
        self._clock = clock
        self._left: list[LeftSpan] = []

    def resume(self, written: frozenset[int]) -> None:
        """Continue a run whose recorder died; `written` are spans of blocks that it has written."""
        self._spans.exact_from = self._blocks.exact_from = self._clock()
        self._blocks.written = written

    def open_blocks(self, *, all_of_them: bool = False) -> None:
        """Note the blocks that were opened: their tasks have not been reported yet."""
        offset = self._puller.offset
        opened, left = self._submissions.blocks(self._clock(), all_of_them=all_of_them)
        self._left += left
        for block in self._blocks.open(opened, offset):
            start = block.start + offset
            self._router.began(self._blocks.span(block, start, start), block.context)

    def note(self, *, all_of_them: bool = False) -> None:
        """Note the submissions that are complete, and the blocks that were left before."""
        if all_of_them:
            self.open_blocks(all_of_them=True)
        offset = self._puller.offset
        ended = self._submissions.ended(self._clock(), all_of_them=all_of_them)
        until = inf if all_of_them else self._puller.complete_until
        self._spans.note(ended, offset, monotonic(), until)
        for ids, parent, last, block in ((it.ids, it.parent, it.last, it.block) for it in ended):
            if block is not None:
                self._blocks.submitted(block, ids, last + offset, below=parent == block)
        self._blocks.leave(self._left)
        self._left.clear()

    def release(self) -> None:
        """Send what waits for nothing more."""
        exact = not self._puller.dropped
        self._spans.release(monotonic(), exact=exact, drained=self._puller.is_drained)
        self._blocks.tick(self._puller.now, self._spans.blocks(), exact=exact)

    def close(self, *, exact: bool) -> None:
        """The run ends: send everything. Blocks end after the submissions in them."""
        self._spans.release(monotonic(), exact=exact, everything=True)
        self._blocks.close(exact=exact)
