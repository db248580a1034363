"""Which code runs: repositories, sources, containers, and what a process runs with.

It is used where a run is recorded, in the program, in workers and in the recorder, and where runs
are read. It imports no Dask and no OpenTelemetry.
"""
