"""What a process runs with: Python, packages, Dask's configuration, host, variables, batch job."""

from scalable.code.environment.host import Process, process_of
from scalable.code.environment.packages import Installed, canonical, installed, modules_of
from scalable.code.environment.payload import pack, unpack
from scalable.code.environment.software import OwnSettings, software_of

__all__ = [
    "Installed",
    "OwnSettings",
    "Process",
    "canonical",
    "installed",
    "modules_of",
    "pack",
    "process_of",
    "software_of",
    "unpack",
]
