"""One of several programs that write a run together, each with a cluster of its own."""

from __future__ import annotations

import os
import signal
import sys

from distributed import Client, LocalCluster

import scalable


def double(number: int) -> int:
    return 2 * number


def fail(number: int) -> int:
    raise ValueError(f"no {number}")


def main(kind: str) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        run = scalable.instrument(
            client,
            project="array",
            recorder="thread" if kind == "thread" else "process",
            close_timeout=30.0,
        )
        client.gather(client.map(double, range(20), pure=True))
        client.gather(client.submit(fail, 1, pure=True), errors="skip")
        run.flush(30.0)
        print("recorded", run.trace_id, run.run_dir, flush=True)
        sys.stdin.readline()
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        run.close()
        # Where its part was removed, all of the run is elsewhere.
        assert "succeeded" in {record["state"] for record in run.reader().records("tasks.jsonl")}
        print(run.status, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
