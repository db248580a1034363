"""Which processes of a recorded program use the library of object storages: the recorder alone."""

from __future__ import annotations

import uuid
from pathlib import Path

from servers.programs import run_program
from servers.storages import BUCKET, VersityGateway

BODY = """
    import sys
    def has(): return any(name.split(".")[0] == "obstore" for name in sys.modules)
    assert client.gather(client.map(double, range(20))) == list(range(0, 40, 2))
    result = {"workers": list(client.run(has).values()), "program": has(), "more": sys.argv[1:]}
    result["scheduler"] = client.run_on_scheduler(has)
"""


def test_program_scheduler_and_workers_never_import_what_is_not_fork_safe(
    versitygw: VersityGateway, tmp_path: Path
):
    prefix = uuid.uuid4().hex
    environ = {**versitygw.environ(), "SCALABLE_RUN_STORE": f"s3://{BUCKET}/{prefix}"}
    done = run_program(tmp_path, BODY, environ)
    assert done.said["result"]["workers"] == [False, False]
    assert done.said["result"]["program"] is False
    assert done.said["result"]["scheduler"] is False
    # What the recorder did with it.
    keys = [entry.key for entry in versitygw.store(prefix).list()]
    assert f"{done.said['id']}/run.json" in keys
