"""Which code runs: repositories, sources and containers.

It is used where a run is recorded, in the program, in workers and in the recorder, and where runs
are read. It imports no Dask and no OpenTelemetry.
"""
