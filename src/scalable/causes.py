"""Why something failed: one classifier, by one table of rules.

It judges by what cannot be misread first: how a process ended, the error number, the type of the
exception and what that inherits from, the exceptions it was raised from, the frames of its
traceback. Phrases that a known library writes come next, tied to the beginning of the message.
Where none of these knows, plain words of the message or of the class's own name may suggest a
cause: that is said with low confidence. What no rule knows is ``unknown``.

Pure: no I/O, no Dask, no OpenTelemetry. The recorder uses it when a failure is written, the
analysis when an older record has to be judged anew.
"""

from __future__ import annotations

import builtins
import errno as _errno
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

Confidence: TypeAlias = Literal["high", "medium", "low"]


class Cause(NamedTuple):
    """One row of the table of causes."""

    name: str
    #: What happened, as a heading.
    title: str
    #: When a failure is put here.
    meaning: str
    #: What usually helps.
    remedy: str


#: Every cause that a verdict can have, the worst first.
CAUSES: Final[dict[str, Cause]] = {
    cause.name: cause
    for cause in (
        Cause(
            "oom",
            "Out of memory",
            "The operating system, or an allocator, had no memory left: the kernel's out-of-memory "
            "killer, MemoryError, a failed allocation on a GPU.",
            "Give each worker more memory or fewer threads, or make the pieces smaller (chunk or "
            "partition size).",
        ),
        Cause(
            "memory_limit",
            "Worker above its memory limit",
            "The nanny ended a worker that used more than its share of the memory limit "
            "(distributed.worker.memory.terminate, 95 % unless set).",
            "Raise the worker's memory limit, run fewer threads on it, or make the pieces smaller.",
        ),
        Cause(
            "segfault",
            "Crash in native code",
            "The process crashed: SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGABRT.",
            "Look at the stack (the worker's log has all of it); update the library on top of it, "
            "and run it with one thread if it is not thread-safe.",
        ),
        Cause(
            "killed",
            "Killed by a signal from outside",
            "Somebody or something ended the process by a signal, or it went away without a word.",
            "Find who sends the signal: the batch system, the container runtime, an administrator.",
        ),
        Cause(
            "exited",
            "The process ended itself",
            "The worker's process ended with an exit status and no signal: sys.exit, os._exit or a "
            "library that calls exit().",
            "Raise an exception instead of ending the process; look for a library that calls exit.",
        ),
        Cause(
            "walltime",
            "Time limit reached",
            "The batch job's time limit, or the worker's own --lifetime, was over.",
            "Ask for a longer time limit, or give workers a --lifetime below it together with "
            "--lifetime-stagger, so that they hand over their work before they go.",
        ),
        Cause(
            "preempted",
            "Machine taken away",
            "The batch system or the cloud provider took the machine back.",
            "Expect it: raise allowed-failures, use retries, or take nodes that cannot be "
            "preempted.",
        ),
        Cause(
            "disk_full",
            "Disk full",
            "No space left on a device, or over quota.",
            "Free space or point the worker's local directory and outputs to a larger disk.",
        ),
        Cause(
            "credential",
            "Access denied",
            "A login, a token or a permission was missing, wrong or expired.",
            "Check that the workers, not only the client, have valid credentials and permissions.",
        ),
        Cause(
            "missing_file",
            "File or object not found",
            "A path, an object of a store or a table that is not there.",
            "Check the path as the workers see it: is the file system mounted on their hosts?",
        ),
        Cause(
            "import_error",
            "Module cannot be imported",
            "A module or a name in it is not there where the task ran.",
            "Install the package on the workers (PipInstall plugin, image, environment), or send "
            "your own module with client.upload_file.",
        ),
        Cause(
            "version_mismatch",
            "Versions do not fit",
            "Client, scheduler and workers, or two libraries, have versions that do not fit.",
            "Make the environments equal; client.get_versions(check=True) names the differences.",
        ),
        Cause(
            "serialization",
            "Cannot be sent between processes",
            "A function, argument, result or exception cannot be pickled or unpickled.",
            "Make locks, connections and open files inside the task instead of passing them in.",
        ),
        Cause(
            "timeout",
            "Timed out",
            "Something did not answer in time; also a worker that Dask ended since it sent no "
            "heartbeat.",
            "Find out what was slow; raise its time limit only if the wait is legitimate.",
        ),
        Cause(
            "connection",
            "Connection failed or lost",
            "A network peer refused, closed or lost the connection; also between Dask's own parts.",
            "Check the network and the peer; use retries for what fails now and then.",
        ),
        Cause(
            "model_runtime",
            "The model or an external program failed",
            "A numerical or machine-learning library refused to compute, or a program that the "
            "task started failed.",
            "Look at the program's own output, and at shapes, devices and parameters of the model.",
        ),
        Cause(
            "input_validation",
            "Unexpected input",
            "The data or the arguments are not what the code expects.",
            "Look at the input of the tasks named; validate it before the expensive part.",
        ),
        Cause(
            "cancelled",
            "Cancelled",
            "Somebody cancelled it, or nobody needed it any more.",
            "Nothing, if that was meant.",
        ),
        Cause(
            "upstream",
            "Failed because another task did",
            "The task never ran: something it depends on had failed.",
            "Look at the task that it blames.",
        ),
        Cause(
            "unknown",
            "Cause unknown",
            "None of the rules knows this failure.",
            "Read the traceback.",
        ),
    )
}


class Case(NamedTuple):
    """What is known of one failure; what is not known keeps its default."""

    #: Class of the exception, with or without its module.
    failure_class: str
    message: str = ""
    traceback: str = ""
    #: Classes that the exception's class inherits from, nearest first.
    bases: tuple[str, ...] = ()
    errno: int | None = None
    #: How the process ended: its status, or the signal's name.
    exit_code: int | None = None
    signal: str | None = None
    #: Of a lost worker: what Dask or the recorder said of its leaving.
    reason: str = ""
    #: The nanny said that it ended the worker for its memory.
    memory_kill: bool = False
    #: Processes that the kernel's out-of-memory killer ended in the worker's control group, and on
    #: its host, while the worker lived.
    oom_kills_group: int = 0
    oom_kills_host: int = 0
    #: Seconds from the worker's end to the end of its batch job's time; negative: it was over.
    time_left: float | None = None
    #: Last lines of the worker's stderr.
    stderr_tail: str = ""
    #: The task at fault, of a task that failed because another did.
    blame: str | None = None
    is_worker: bool = False
    #: Dask ended the worker since the scheduler had heard nothing of it for so many seconds.
    worker_ttl: float | None = None


class Verdict(NamedTuple):
    """A cause, what it was judged by, and how sure that is."""

    cause: str
    confidence: Confidence
    evidence: tuple[str, ...]


def classify(case: Case) -> Verdict:
    """Judge one failure.

    Parameters
    ----------
    case : Case
        What is known of it.

    Returns
    -------
    Verdict
        Its `evidence` is a sentence or two for a person, never empty.
    """
    if case.blame:
        return Verdict("upstream", "high", (f"task {case.blame} had failed before",))
    if case.is_worker or case.failure_class == "WorkerLost":
        return _judge_death(case)
    exceptions = _chain(case)
    for judge in (_by_errno, _by_type, _by_words, _by_frames):
        verdict = judge(exceptions[0], case)
        if verdict is not None:
            return verdict
    # A class that says nothing of its own: what it was raised from may.
    for cause in exceptions[1:]:
        for judge in (_by_errno, _by_type, _by_words):
            verdict = judge(cause, case)
            if verdict is not None:
                confidence: Confidence = "medium" if verdict.confidence == "high" else "low"
                return Verdict(
                    verdict.cause, confidence, (f"raised from {cause.name}", *verdict.evidence)
                )
    first = exceptions[0]
    suggested, generic = _by_suggestion(first), _by_generic_type(first)
    if suggested is not None and (generic is None or generic.cause != suggested.cause):
        return suggested
    return generic or Verdict("unknown", "low", (f"no rule knows {first.name}",))


def case_of(record: Mapping[str, Any]) -> Case:
    """Make a case of a record of failures.jsonl, also of one that an older tool wrote."""
    found: Any = record.get("details")
    details: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    failure_class = _text(record.get("failure_class"))
    return Case(
        failure_class,
        _text(record.get("message")),
        _text(details.get("traceback")),
        tuple(name for name in _list(details.get("bases")) if isinstance(name, str)),
        _integer(details.get("errno")),
        _integer(details.get("exit_code")),
        _text(details.get("signal")) or None,
        _text(details.get("reason")),
        bool(details.get("memory_kill")),
        _integer(details.get("oom_kills_group")) or 0,
        _integer(details.get("oom_kills_host")) or 0,
        _number(details.get("time_left_s")),
        _text(details.get("stderr_tail")),
        _text(details.get("blame")) or None,
        failure_class == "WorkerLost" or details.get("phase") == "worker_lost",
        _number(details.get("worker_ttl_s")),
    )


# -- exceptions: what is known of each in a chain --------------------------------------------------


class _Exception(NamedTuple):
    """One exception of a chain, as the traceback tells it."""

    #: With its module where that is known.
    name: str
    message: str
    bases: tuple[str, ...]
    errno: int | None
    #: Files of its frames, the innermost last.
    frames: tuple[str, ...]

    @property
    def bare(self) -> str:
        return self.name.rpartition(".")[2]


_DIRECT: Final = "The above exception was the direct cause of the following exception:"
_DURING: Final = "During handling of the above exception, another exception occurred:"
_BETWEEN: Final = re.compile(f"(?:{re.escape(_DIRECT)}|{re.escape(_DURING)})")
_LAST_LINE: Final = re.compile(r"^([A-Za-z_][\w.<>]*)(?::[ ]?(.*)|)$")
_FRAME: Final = re.compile(r'^\s+File "([^"\n]+)", line \d+', re.MULTILINE)
_ERRNO: Final = re.compile(r"\[Errno (\d{1,3})\] ")
_MAX_CHAIN: Final = 8


def _chain(case: Case) -> list[_Exception]:
    """The exception itself, then what it was raised from, nearest first."""
    parts = _BETWEEN.split(case.traceback)
    named = case.failure_class.rpartition(".")[2]
    last = _raised(parts[-1], named)
    name = last.name if last is not None and last.bare == named else case.failure_class
    frames = last.frames if last is not None else ()
    given = case.errno if case.errno is not None else _errno_of(case.message)
    chain = [_Exception(name, case.message, case.bases or _mro(named), given, frames)]
    for part in reversed(parts[:-1][-_MAX_CHAIN:]):
        earlier = _raised(part, None)
        if earlier is not None:
            chain.append(earlier)
    return chain


def _raised(part: str, named: str | None) -> _Exception | None:
    """What one part of a traceback ends in; `named` tells a message's line from the class's."""
    frames = tuple(_FRAME.findall(part))
    lines = part.splitlines()
    for position in range(len(lines) - 1, -1, -1):
        line = lines[position]
        match = None if line[:1] == " " else _LAST_LINE.match(line)
        if match is None or line.startswith("Traceback "):
            continue
        name = match[1]
        bare = name.rpartition(".")[2]
        if bare == named or (named is None and (bare[:1].isupper() or "." in name)):
            message = "\n".join([match[2] or "", *lines[position + 1 :]]).strip()
            return _Exception(name, message, _mro(bare), _errno_of(message), frames)
    return None


def _mro(name: str) -> tuple[str, ...]:
    """What a class of Python's own inherits from."""
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return tuple(base.__name__ for base in found.__mro__[1:-2])
    return ()


def _errno_of(message: str) -> int | None:
    """Python itself begins the text of an OSError with the number."""
    match = _ERRNO.search(message[:300])
    return int(match[1]) if match else None


# -- rules: error numbers --------------------------------------------------------------------------

#: Error numbers of the system, by their names.
ERRNOS: Final[dict[str, tuple[str, Confidence]]] = {
    "ENOSPC": ("disk_full", "high"),
    "EDQUOT": ("disk_full", "high"),
    "EFBIG": ("disk_full", "medium"),
    "ENOMEM": ("oom", "high"),
    "ENOENT": ("missing_file", "high"),
    "ESTALE": ("missing_file", "medium"),
    "ENODEV": ("missing_file", "medium"),
    "EACCES": ("credential", "high"),
    "EPERM": ("credential", "high"),
    "EROFS": ("credential", "medium"),
    "ECONNREFUSED": ("connection", "high"),
    "ECONNRESET": ("connection", "high"),
    "ECONNABORTED": ("connection", "high"),
    "EPIPE": ("connection", "high"),
    "ENETUNREACH": ("connection", "high"),
    "ENETDOWN": ("connection", "high"),
    "EHOSTUNREACH": ("connection", "high"),
    "EHOSTDOWN": ("connection", "high"),
    "ENOTCONN": ("connection", "high"),
    "EADDRINUSE": ("connection", "medium"),
    "ETIMEDOUT": ("timeout", "high"),
}


def _by_errno(exception: _Exception, case: Case) -> Verdict | None:
    number = exception.errno
    if number is None or not _is_oserror(exception):
        return None
    name = _errno.errorcode.get(number, "")
    found = ERRNOS.get(name)
    if found is None:
        return None
    return Verdict(found[0], found[1], (f"error number {number} ({name})",))


def _is_oserror(exception: _Exception) -> bool:
    if exception.bare in _OS_ERRORS or not _OS_ERRORS.isdisjoint(exception.bases):
        return True
    # A text that begins as the system's own does, whatever class carries it.
    return exception.message.startswith("[Errno ")


_OS_ERRORS: Final = frozenset({"OSError", "IOError", "EnvironmentError", "error"})


# -- rules: types ----------------------------------------------------------------------------------

#: Exception classes, by name; one with a dot is looked for together with its module.
TYPES: Final[dict[str, tuple[str, Confidence]]] = {
    # memory
    "MemoryError": ("oom", "high"),
    "_ArrayMemoryError": ("oom", "high"),
    "ArrowMemoryError": ("oom", "high"),
    "OutOfMemoryError": ("oom", "high"),
    "ResourceExhaustedError": ("oom", "medium"),
    "CUDAMemoryError": ("oom", "high"),
    "rmm.OutOfMemory": ("oom", "high"),
    # Dask
    "KilledWorker": ("killed", "low"),
    "CommClosedError": ("connection", "high"),
    "FatalCommClosedError": ("connection", "high"),
    "RPCClosed": ("connection", "high"),
    "P2PConsistencyError": ("connection", "medium"),
    "SourceGoneError": ("connection", "high"),
    "NoValidWorkerError": ("timeout", "medium"),
    "FutureCancelledError": ("cancelled", "high"),
    "FuturesCancelledError": ("cancelled", "high"),
    "CancelledError": ("cancelled", "high"),
    "KeyboardInterrupt": ("cancelled", "high"),
    "SystemExit": ("exited", "high"),
    # this package
    "WorkerStartTimeoutError": ("timeout", "high"),
    "TagError": ("input_validation", "high"),
    "ManifestError": ("input_validation", "high"),
    # operating system
    "FileNotFoundError": ("missing_file", "high"),
    "NotADirectoryError": ("missing_file", "medium"),
    "IsADirectoryError": ("missing_file", "medium"),
    "PermissionError": ("credential", "high"),
    "ConnectionError": ("connection", "high"),
    "ConnectionRefusedError": ("connection", "high"),
    "ConnectionResetError": ("connection", "high"),
    "ConnectionAbortedError": ("connection", "high"),
    "BrokenPipeError": ("connection", "high"),
    "IncompleteRead": ("connection", "high"),
    "RemoteDisconnected": ("connection", "high"),
    "gaierror": ("connection", "high"),
    "TimeoutError": ("timeout", "high"),
    "TimeoutExpired": ("timeout", "high"),
    "FSTimeoutError": ("timeout", "high"),
    "BrokenProcessPool": ("killed", "medium"),
    # imports and versions
    "ModuleNotFoundError": ("import_error", "high"),
    "ImportError": ("import_error", "high"),
    "VersionMismatch": ("version_mismatch", "high"),
    "VersionConflict": ("version_mismatch", "high"),
    "ContextualVersionConflict": ("version_mismatch", "high"),
    "DistributionNotFound": ("import_error", "high"),
    "PackageNotFoundError": ("import_error", "high"),
    "InconsistentVersionWarning": ("version_mismatch", "high"),
    # serialization
    "PicklingError": ("serialization", "high"),
    "UnpicklingError": ("serialization", "high"),
    "PickleError": ("serialization", "high"),
    "MaybeEncodingError": ("serialization", "high"),
    "JSONEncodeError": ("serialization", "high"),
    "ArrowNotImplementedError": ("serialization", "low"),
    # network and stores
    "ConnectTimeout": ("timeout", "high"),
    "ReadTimeout": ("timeout", "high"),
    "ConnectTimeoutError": ("timeout", "high"),
    "ReadTimeoutError": ("timeout", "high"),
    "PoolTimeout": ("timeout", "high"),
    "WriteTimeout": ("timeout", "high"),
    "ServerTimeoutError": ("timeout", "high"),
    "ConnectionTimeoutError": ("timeout", "high"),
    "SocketTimeoutError": ("timeout", "high"),
    "DeadlineExceeded": ("timeout", "high"),
    "GatewayTimeout": ("timeout", "high"),
    "QueryCanceledError": ("timeout", "medium"),
    "ConnectError": ("connection", "high"),
    "ReadError": ("connection", "medium"),
    "RemoteProtocolError": ("connection", "high"),
    "NewConnectionError": ("connection", "high"),
    "MaxRetryError": ("connection", "high"),
    "ProtocolError": ("connection", "high"),
    "ChunkedEncodingError": ("connection", "high"),
    "ProxyError": ("connection", "medium"),
    "SSLError": ("connection", "medium"),
    "ClientConnectorError": ("connection", "high"),
    "ClientOSError": ("connection", "high"),
    "ServerDisconnectedError": ("connection", "high"),
    "ClientPayloadError": ("connection", "high"),
    "EndpointConnectionError": ("connection", "high"),
    "ServiceUnavailable": ("connection", "high"),
    "ServiceRequestError": ("connection", "high"),
    "ServiceResponseError": ("connection", "medium"),
    "InterfaceError": ("connection", "low"),
    "ConnectionDoesNotExistError": ("connection", "high"),
    "NoCredentialsError": ("credential", "high"),
    "PartialCredentialsError": ("credential", "high"),
    "CredentialRetrievalError": ("credential", "high"),
    "TokenRetrievalError": ("credential", "high"),
    "UnauthorizedSSOTokenError": ("credential", "high"),
    "DefaultCredentialsError": ("credential", "high"),
    "RefreshError": ("credential", "high"),
    "ClientAuthenticationError": ("credential", "high"),
    "CredentialUnavailableError": ("credential", "high"),
    "AuthenticationException": ("credential", "high"),
    "AuthenticationError": ("credential", "high"),
    "AuthorizationError": ("credential", "high"),
    "PermissionDenied": ("credential", "high"),
    "PermissionDeniedError": ("credential", "high"),
    "Unauthenticated": ("credential", "high"),
    "Unauthorized": ("credential", "high"),
    "Forbidden": ("credential", "high"),
    "InvalidPasswordError": ("credential", "high"),
    "InsufficientPrivilegeError": ("credential", "high"),
    "NoSuchKey": ("missing_file", "high"),
    "NoSuchBucket": ("missing_file", "high"),
    "ResourceNotFoundError": ("missing_file", "high"),
    "GroupNotFoundError": ("missing_file", "high"),
    "PathNotFoundError": ("missing_file", "high"),
    "google.api_core.exceptions.NotFound": ("missing_file", "high"),
    "UndefinedTable": ("missing_file", "medium"),
    "NoSuchTableError": ("missing_file", "high"),
    # models
    "CalledProcessError": ("model_runtime", "medium"),
    "LinAlgError": ("model_runtime", "high"),
    "ArpackNoConvergence": ("model_runtime", "high"),
    "NoConvergence": ("model_runtime", "high"),
    "NotFittedError": ("model_runtime", "high"),
    "XGBoostError": ("model_runtime", "high"),
    "LightGBMError": ("model_runtime", "high"),
    "CatBoostError": ("model_runtime", "high"),
    "CUDARuntimeError": ("model_runtime", "high"),
    "CudaAPIError": ("model_runtime", "high"),
    "CUDADriverError": ("model_runtime", "high"),
    "AcceleratorError": ("model_runtime", "high"),
    "DistBackendError": ("model_runtime", "high"),
    "InvalidArgumentError": ("model_runtime", "medium"),
    "FailedPreconditionError": ("model_runtime", "medium"),
    "XlaRuntimeError": ("model_runtime", "high"),
    "JaxRuntimeError": ("model_runtime", "high"),
    "SamplingError": ("model_runtime", "medium"),
    "FloatingPointError": ("model_runtime", "medium"),
    "SolverError": ("model_runtime", "high"),
    "TypingError": ("model_runtime", "medium"),
    "LoweringError": ("model_runtime", "medium"),
    "ModelRuntimeError": ("model_runtime", "high"),
    "InvalidGraph": ("model_runtime", "high"),
    # input
    "ValidationError": ("input_validation", "high"),
    "SchemaError": ("input_validation", "high"),
    "SchemaErrors": ("input_validation", "high"),
    "JSONDecodeError": ("input_validation", "high"),
    "UnicodeDecodeError": ("input_validation", "high"),
    "UnicodeEncodeError": ("input_validation", "high"),
    "ParserError": ("input_validation", "high"),
    "EmptyDataError": ("input_validation", "high"),
    "ParseError": ("input_validation", "high"),
    "XMLSyntaxError": ("input_validation", "high"),
    "OutOfBoundsDatetime": ("input_validation", "high"),
    "IntCastingNaNError": ("input_validation", "high"),
    "MergeError": ("input_validation", "high"),
    "InvalidIndexError": ("input_validation", "high"),
    "UndefinedVariableError": ("input_validation", "high"),
    "ArrowInvalid": ("input_validation", "high"),
    "ArrowTypeError": ("input_validation", "high"),
    "ArrowKeyError": ("input_validation", "high"),
    "BadZipFile": ("input_validation", "high"),
    "BadGzipFile": ("input_validation", "high"),
    "UnidentifiedImageError": ("input_validation", "high"),
    "CRSError": ("input_validation", "high"),
    "ColumnNotFoundError": ("input_validation", "high"),
    "ShapeError": ("input_validation", "high"),
    "ComputeError": ("input_validation", "low"),
    "AxisError": ("input_validation", "high"),
    "AssertionError": ("input_validation", "medium"),
}

#: Classes that many things raise: they say something only if nothing else does.
GENERIC_TYPES: Final[dict[str, tuple[str, Confidence]]] = {
    "ValueError": ("input_validation", "medium"),
    "KeyError": ("input_validation", "medium"),
    "IndexError": ("input_validation", "medium"),
    "LookupError": ("input_validation", "low"),
    "TypeError": ("input_validation", "low"),
    "ZeroDivisionError": ("input_validation", "low"),
    "OverflowError": ("input_validation", "low"),
    "EOFError": ("input_validation", "low"),
}

#: Classes whose message, not they, tells what happened; they never stand for their bases.
_SPOKEN: Final = frozenset(
    {
        "ImportError",
        "ModuleNotFoundError",
        "CalledProcessError",
        "ClientError",
        "HTTPError",
        "HTTPStatusError",
        "ClientResponseError",
        "HttpResponseError",
        "HttpError",
        "ApiError",
        "APIStatusError",
        "OperationalError",
        "DatabaseError",
        "ProgrammingError",
        "InternalError",
        "SystemError",
        "OSError",
        "ArrowInvalid",
        "AssertionError",
        "ValueError",
        "TypeError",
        "AttributeError",
        "HDF5Error",
        "SSLError",
        "SSLCertVerificationError",
        "MaxRetryError",
        "ConnectionError",
        "XlaRuntimeError",
        "JaxRuntimeError",
        "XGBoostError",
        "LightGBMError",
        "CUDARuntimeError",
        "CudaAPIError",
        "CUDADriverError",
        "AcceleratorError",
    }
)


def _by_type(exception: _Exception, case: Case) -> Verdict | None:
    spoken = exception.bare in _SPOKEN
    if spoken:
        verdict = _by_words(exception, case)
        if verdict is not None:
            return verdict
    for position, name in enumerate((exception.name, *exception.bases)):
        found = TYPES.get(name) or TYPES.get(name.rpartition(".")[2])
        if found is not None:
            said = f"exception class {name}"
            if position:
                said = f"exception class {exception.name}, which is a {name}"
            return Verdict(found[0], found[1], (said,))
    return None


def _by_generic_type(exception: _Exception) -> Verdict | None:
    for name in (exception.bare, *exception.bases):
        found = GENERIC_TYPES.get(name.rpartition(".")[2])
        if found is not None:
            return Verdict(found[0], found[1], (f"exception class {name}",))
    return None


# -- rules: frames ---------------------------------------------------------------------------------

#: Packages whose code raised the exception: its innermost frame lies in them.
FRAMES: Final[dict[str, tuple[str, Confidence]]] = {
    "torch": ("model_runtime", "medium"),
    "tensorflow": ("model_runtime", "medium"),
    "keras": ("model_runtime", "medium"),
    "jax": ("model_runtime", "medium"),
    "jaxlib": ("model_runtime", "medium"),
    "xgboost": ("model_runtime", "medium"),
    "lightgbm": ("model_runtime", "medium"),
    "onnxruntime": ("model_runtime", "medium"),
    "transformers": ("model_runtime", "medium"),
    "pymc": ("model_runtime", "medium"),
    "pyomo": ("model_runtime", "medium"),
    "cloudpickle": ("serialization", "medium"),
    "pydantic": ("input_validation", "medium"),
    "jsonschema": ("input_validation", "medium"),
    "pandera": ("input_validation", "medium"),
    "botocore": ("connection", "low"),
    "urllib3": ("connection", "low"),
}
_PACKAGE: Final = re.compile(r"(?:site|dist)-packages[/\\]([A-Za-z_]\w*)")
_STANDARD_PICKLE: Final = re.compile(
    r"lib[/\\]python3[^/\\]*[/\\]pickle\.py$|[/\\]distributed[/\\]protocol[/\\]\w+\.py$"
)
#: How a call is refused, or a name looked for, that another version of a library has.
_REFUSED: Final = re.compile(
    r"(?:[\w.<>]{1,120}\(\) )?(?:got an unexpected keyword argument|takes \d+ positional argument"
    r"|missing \d+ required (?:positional|keyword))|'\w+' is an invalid keyword argument"
    r"|module '[\w.]+' has no attribute "
)


def _by_frames(exception: _Exception, case: Case) -> Verdict | None:
    if not exception.frames:
        return None
    innermost = exception.frames[-1]
    installed = _PACKAGE.search(innermost)
    if installed is not None and _REFUSED.match(exception.message):
        # One library called another in a way that this version of it does not know.
        said = f"{installed[1]} uses what the version that is there does not have"
        return Verdict("version_mismatch", "medium", (said,))
    if _STANDARD_PICKLE.search(innermost):
        return Verdict("serialization", "medium", ("raised in pickle",))
    found = FRAMES.get(installed[1]) if installed is not None else None
    if installed is None or found is None:
        return None
    return Verdict(found[0], found[1], (f"raised inside {installed[1]}",))


# -- rules: words ----------------------------------------------------------------------------------


class Words(NamedTuple):
    """A phrase that a known library writes; `pattern` is tried at the beginning of the message."""

    cause: str
    confidence: Confidence
    #: Who writes it.
    source: str
    pattern: str


def _http(codes: str, reasons: str) -> str:
    """How urllib, requests, httpx and aiohttp each write a status; a bare number is none."""
    return (
        rf"(?:HTTP Error (?:{codes})\b|(?:{codes}) (?:Client|Server) Error: "
        rf"|(?:Client|Server) error '(?:{codes}) |(?:{codes}),? (?:message=)?['\"]?(?:{reasons}))"
    )


#: Tried in this order; ``^`` is implied, and what may stand before the phrase is spelled out.
WORDS: Final = (
    Words("oom", "high", "numpy", r"Unable to allocate \S+ [KMGTPE]?i?B(?:ytes)? for an array"),
    Words("oom", "high", "torch", r"(?:CUDA|HIP|MPS backend) out of memory\b"),
    Words("oom", "high", "torch", r"\[enforce fail at .{0,80}\] .{0,80}DefaultCPUAllocator: "),
    Words(
        "oom", "high", "torch", r"(?:CUDA|CUBLAS|cuDNN) error: (?:out of memory|\w+_ALLOC_FAILED)"
    ),
    Words("oom", "high", "tensorflow", r"(?:\w+: )?OOM when allocating tensor"),
    Words("oom", "high", "jax", r"RESOURCE_EXHAUSTED: (?:Out of memory|.{0,80}allocat)"),
    Words("oom", "high", "C++", r"std::bad_alloc\b"),
    Words("oom", "high", "pyarrow", r"(?:malloc|realloc) of size \d+ failed"),
    Words("oom", "high", "polars, Rust", r"memory allocation of \d+ bytes failed"),
    Words("oom", "high", "Java", r"(?:.{0,80}: )?java\.lang\.OutOfMemoryError"),
    Words("oom", "high", "rmm", r"std::bad_alloc: out_of_memory"),
    Words("oom", "medium", "DuckDB", r"Out of Memory Error: "),
    Words(
        "segfault",
        "high",
        "subprocess",
        r"Command .{0,4000}? died with <Signals\.SIG(?:SEGV|BUS|ILL|FPE|ABRT)",
    ),
    Words(
        "killed", "high", "subprocess", r"Command .{0,4000}? died with <Signals\.SIG(?:KILL|TERM)"
    ),
    Words(
        "segfault",
        "medium",
        "subprocess",
        r"Command .{0,4000}? returned non-zero exit status (?:-(?:4|6|7|8|11)|13[2459]|136)\b",
    ),
    Words(
        "killed",
        "medium",
        "subprocess",
        r"Command .{0,4000}? returned non-zero exit status (?:-(?:9|15)|137|143)\b",
    ),
    Words(
        "segfault", "medium", "ctypes", r"(?:\w{1,20}: )?access violation (?:reading|writing) 0x"
    ),
    Words("timeout", "high", "subprocess", r"Command .{0,4000}? timed out after [\d.]+ seconds"),
    Words(
        "disk_full",
        "high",
        "the system",
        r"(?:\[Errno \d+\] |[\w./: -]{0,120}: )?(?:No space left on device|Disk quota exceeded)",
    ),
    Words(
        "disk_full",
        "high",
        "SQLite",
        r"(?:\(sqlite3\.OperationalError\) )?database or disk is full",
    ),
    Words("disk_full", "high", "HDF5", r"(?:.{0,200}errno = 28, error message = 'No space left)"),
    Words(
        "disk_full",
        "high",
        "PostgreSQL",
        r"could not (?:extend|write to) file .{0,200}: No space left",
    ),
    Words("version_mismatch", "high", "pickle", r"unsupported pickle protocol: \d"),
    Words(
        "version_mismatch",
        "high",
        "numpy",
        r"numpy\.(?:dtype|ndarray|ufunc) size changed, may indicate binary incompatibility",
    ),
    Words(
        "version_mismatch",
        "high",
        "numpy",
        r"\s*A module that was compiled using NumPy 1\.x cannot be run in",
    ),
    Words("version_mismatch", "high", "numpy", r"numpy\.core\.multiarray failed to import"),
    Words("version_mismatch", "high", "the loader", r"\S+: undefined symbol: "),
    Words("version_mismatch", "high", "the loader", r"\S+: version [`'‘]\w+_[\d.]+['’] not found"),
    Words("import_error", "high", "the loader", r"\S+: cannot open shared object file: "),
    Words("version_mismatch", "high", "Python", r"bad magic number in "),
    Words(
        "version_mismatch",
        "high",
        "Python",
        r"code(?:\(\)|expected) (?:argument|at (?:most|least)) ",
    ),
    Words("version_mismatch", "high", "distributed", r"Mismatched versions found"),
    Words(
        "version_mismatch",
        "medium",
        "pip",
        r".{0,120}\bbut you have \S+ \d+\.\d+\S* which is incompatible",
    ),
    Words(
        "version_mismatch",
        "high",
        "any",
        r"\S+ (?:requires|needs) (?:version )?\S+? ?(?:>=|<=|==|~=|!=|<|>) ?\d\S*,? "
        r"(?:but|found|you have)",
    ),
    Words("version_mismatch", "high", "pandas", r"Pandas requires version '[^']+' or newer of '"),
    Words("serialization", "high", "pickle", r"(?:cannot|can't) pickle '?[\w.]+'? objects?"),
    Words("serialization", "high", "pickle", r"[Cc]an't (?:pickle|get local object) "),
    Words("serialization", "high", "pickle", r"Can't get attribute '[^']*' on <module "),
    Words("serialization", "high", "pickle", r"(?:pickle data was truncated|Ran out of input$)"),
    Words(
        "serialization",
        "high",
        "distributed",
        r"(?:\(['\"])?[Cc]ould not (?:de)?serialize object of type ",
    ),
    Words(
        "serialization", "high", "distributed", r"Error during deserialization of the task graph"
    ),
    Words("serialization", "high", "json", r"Object of type \w+ is not JSON serializable"),
    Words("serialization", "high", "msgpack", r"can ?not serialize '[\w.]+' object"),
    Words(
        "serialization",
        "medium",
        "pickle",
        r"__init__\(\) missing \d+ required positional argument.{0,80}$",
    ),
    Words(
        "credential",
        "high",
        "AWS",
        r"An error occurred \((?:AccessDenied\w*|ExpiredToken\w*|InvalidAccessKeyId|403"
        r"|SignatureDoesNotMatch|UnauthorizedOperation|InvalidClientTokenId|UnrecognizedClient\w*"
        r"|AuthFailure)\) when calling",
    ),
    Words(
        "missing_file",
        "high",
        "AWS",
        r"An error occurred \((?:NoSuchKey|NoSuchBucket|404|ResourceNotFound\w*)\) when calling",
    ),
    Words(
        "connection",
        "medium",
        "AWS",
        r"An error occurred \((?:SlowDown|Throttling\w*|RequestLimitExceeded|ServiceUnavailable"
        r"|InternalError|50\d|RequestTimeout)\) when calling",
    ),
    Words("credential", "high", "HTTP", _http("401|403|407", "Unauthorized|Forbidden")),
    Words("missing_file", "high", "HTTP", _http("404|410", "Not Found|Gone")),
    Words("timeout", "high", "HTTP", _http("408|504", "Request Timeout|Gateway Time-?[Oo]ut")),
    Words(
        "connection",
        "high",
        "HTTP",
        _http(
            "429|500|502|503",
            "Too Many Requests|Internal Server Error|Bad Gateway|Service Unavailable",
        ),
    ),
    Words("input_validation", "medium", "HTTP", _http("400|422", "Bad Request|Unprocessable")),
    Words(
        "credential",
        "high",
        "PostgreSQL",
        r"(?:.{0,200}(?:FATAL:\s{1,4}|failed: ))?(?:password authentication failed for user"
        r"|no pg_hba\.conf entry|fe_sendauth: no password supplied|role \"[^\"]{1,80}\" does not)",
    ),
    Words(
        "connection",
        "high",
        "PostgreSQL",
        r".{0,200}FATAL:\s{1,4}(?:sorry, too many clients|remaining connection slots"
        r"|the database system is )",
    ),
    Words("credential", "high", "MySQL", r"\(?(?:1045, ['\"])?Access denied for user "),
    Words("credential", "high", "OpenSSH", r"Permission denied \((?:publickey|password)"),
    Words("credential", "high", "google-auth", r"Your default credentials were not found"),
    Words(
        "credential",
        "high",
        "GCS",
        r"(?:Anonymous caller|\S+@\S+) does not have storage\.\S+ access",
    ),
    Words("credential", "high", "botocore", r"Unable to locate credentials"),
    Words("credential", "high", "git", r"(?:fatal: )?Authentication failed for '"),
    Words(
        "connection",
        "high",
        "PostgreSQL",
        r"(?:\(psycopg2?\.OperationalError\) )?"
        r"(?:could not connect to server|connection to server at .{0,120} failed): (?!FATAL)",
    ),
    Words("connection", "high", "PostgreSQL", r"server closed the connection unexpectedly"),
    Words("connection", "high", "MySQL", r"\(?(?:2006|2013|2003), ['\"]"),
    Words("connection", "high", "ssl", r"\[SSL: \w+\] "),
    Words(
        "timeout",
        "high",
        "urllib3",
        r"HTTPS?ConnectionPool\(host=.{0,120}\): "
        r"(?:Read timed out|Max retries exceeded .{0,400}ConnectTimeout)",
    ),
    Words(
        "connection",
        "high",
        "urllib3",
        r"HTTPS?ConnectionPool\(host=.{0,120}\): Max retries exceeded",
    ),
    Words(
        "connection",
        "high",
        "distributed",
        r"in <TCP[^>]*>: |Timed out trying to connect to tcp://",
    ),
    Words(
        "timeout",
        "high",
        "any",
        r"(?:\w+ )?(?:[Oo]peration|[Rr]equest|[Rr]ead|[Cc]onnection|[Cc]all) timed out\b",
    ),
    Words("timeout", "high", "SQLite", r"(?:\(sqlite3\.OperationalError\) )?database is locked"),
    Words(
        "timeout", "high", "PostgreSQL", r"canceling statement due to (?:statement|lock) timeout"
    ),
    Words(
        "missing_file",
        "high",
        "SQLite",
        r"(?:\(sqlite3\.OperationalError\) )?(?:no such table: |unable to open database file)",
    ),
    Words(
        "missing_file",
        "high",
        "GDAL, rasterio",
        r"(?:'?[^\n]{1,300}?'?: )?No such file or directory",
    ),
    Words(
        "missing_file",
        "high",
        "h5py",
        r"Unable to (?:synchronously )?open (?:file|object) \(.{0,40}unable to open file",
    ),
    Words("missing_file", "high", "zarr", r"(?:group|array) not found at path "),
    Words("missing_file", "medium", "DuckDB", r"IO Error: No files found that match the pattern"),
    Words(
        "input_validation",
        "medium",
        "h5py",
        r"Unable to (?:synchronously )?open (?:file|object) "
        r"\((?:file signature not found|truncated file)",
    ),
    Words("model_runtime", "high", "torch", r"mat1 and mat2 shapes cannot be multiplied"),
    Words("model_runtime", "high", "torch", r"Expected all tensors to be on the same device"),
    Words("model_runtime", "high", "torch", r"(?:CUDA|cuDNN|CUBLAS|NCCL|HIP) error\b"),
    Words("model_runtime", "high", "torch", r"Error\(s\) in loading state_dict for "),
    Words(
        "model_runtime",
        "high",
        "torch",
        r"The size of tensor a \(\d+\) must match the size of tensor b",
    ),
    Words("model_runtime", "high", "torch", r"Given groups=\d+, weight of size "),
    Words(
        "oom",
        "high",
        "CUDA",
        r"(?:.{0,120}\b)?(?:CUDNN|CUBLAS|CUSOLVER|CUSPARSE|CUFFT)_STATUS_ALLOC_FAILED",
    ),
    Words(
        "model_runtime",
        "high",
        "CUDA",
        r"(?:.{0,120}\b)?(?:CUDNN|CUBLAS|CUSOLVER|CUSPARSE|CUFFT|NCCL)_STATUS_[A-Z_]{4,40}",
    ),
    Words("model_runtime", "high", "onnxruntime", r"\[ONNXRuntimeError\] "),
    Words("model_runtime", "high", "cupy", r"(?:cudaError|CUDA_ERROR_)\w+"),
    Words(
        "model_runtime",
        "high",
        "scikit-learn",
        r"Input X contains (?:NaN|infinity)|This \w+ instance is not fitted yet",
    ),
    Words(
        "model_runtime",
        "medium",
        "scipy",
        r"(?:Optimal parameters not found|Factor is exactly singular"
        r"|array must not contain infs or NaNs)",
    ),
    Words(
        "preempted", "high", "Slurm", r"slurmstepd-\S+: error: \*\*\* .{0,120} DUE TO PREEMPTION"
    ),
    Words("walltime", "high", "Slurm", r"slurmstepd-\S+: error: \*\*\* .{0,120} DUE TO TIME LIMIT"),
    Words("upstream", "high", "distributed", r"(?:Lost|lost) dependencies? "),
    Words("cancelled", "high", "distributed", r"\S+ cancelled for reason: "),
)
_COMPILED: Final = tuple((words, re.compile(words.pattern, re.DOTALL)) for words in WORDS)
#: All of them at once: most messages fit none, and that is known after one look.
_ANY_WORDS: Final = re.compile("|".join(f"(?:{words.pattern})" for words in WORDS), re.DOTALL)
#: Only so much of a message is looked at: what is typical stands at its beginning.
_MAX_WORDS: Final = 5_000


def _by_words(exception: _Exception, case: Case) -> Verdict | None:
    message = exception.message[:_MAX_WORDS].lstrip()
    if not message or _ANY_WORDS.match(message) is None:
        return None
    for words, pattern in _COMPILED:
        match = pattern.match(message)
        if match is not None:
            found = " ".join(match[0].split())[:120]
            return Verdict(
                words.cause, words.confidence, (f"the message begins “{found}” ({words.source})",)
            )
    return None


# -- rules: words that suggest a cause -------------------------------------------------------------


class Suggestion(NamedTuple):
    """Words that may say what happened; `name` is looked for in the class, `words` anywhere."""

    cause: str
    #: In the name of the exception's class; empty: in none.
    name: str
    words: str


def _status(codes: str) -> str:
    """How a message may give an HTTP status; a bare number is none."""
    return (
        rf"|\b(?:status|code|error|HTTP(?:/[\d.]{1, 4})?)[ :=(]{{1,3}}(?:{codes})\b"
        rf"|\b(?:{codes}) (?:client|server) error\b"
    )


#: Tried in this order. A word may be there for another reason: confidence is low.
SUGGESTIONS: Final = (
    Suggestion(
        "oom",
        r"OutOfMemory|OOM|MemoryLimit|MemoryExhausted|InsufficientMemory",
        r"(?-i:\bOOM(?:-?[Kk]ill\w*)?\b)|\bout[ -]of[ -](?:\w+ )?memory\b|\bmemory (?:limit"
        r"|budget|quota) (?:\w+ ){0,3}"
        r"exceeded\b|\b(?:exceed\w*|above|over|beyond|past|hit"
        r"|reached) (?:\w+ ){0,3}memory (?:limit|budget|quota)"
        r"|\b(?:insufficient|not enough|no more|too little) (?:\w+ )?memory\b"
        r"|\b(?:cannot|can't|could not|couldn't|unable to|failed to) alloc\w*"
        r"|\bmemory (?:is )?exhausted\b|\bmemory allocation (?:failed|failure|error)"
        r"|\bneeds? more memory\b|\bbad_alloc\b",
    ),
    Suggestion(
        "disk_full",
        r"DiskFull|NoSpace|QuotaExceeded",
        r"\bno space left\b|\b(?:disk|filesystem|file system|volume|device) (?:is )?full\b"
        r"|\bdisk quota\b|\bout of disk\b|\b(?:not enough|insufficient|no more) (?:free )?"
        r"(?:disk|storage)(?: space)?\b|\bENOSPC\b",
    ),
    Suggestion(
        "segfault",
        r"SegmentationFault|Segfault",
        r"\bsegmentation fault\b|\bsegfault\w*|\bSIG(?:SEGV|BUS|ILL|ABRT)\b|\bcore dumped\b"
        r"|\bexit (?:code|status) (?:139|-11)\b",
    ),
    Suggestion(
        "preempted",
        r"Preempt|SpotInterruption",
        r"\bpre-?empt(?:ed|ion)\b|\bspot (?:instance|interruption)\w*|\bevicted\b",
    ),
    Suggestion(
        "walltime",
        r"Wall[Tt]ime|TimeLimit",
        r"\bwall[- ]?(?:time|clock)(?: limit)?\b|\bjob (?:\w+ ){0,3}time limit\b",
    ),
    Suggestion(
        "import_error",
        r"MissingDependency|DependencyNotFound|MissingPackage|PluginNotFound",
        r"\bno module named\b|\bcannot import\b|\bmissing (?:optional )?dependency\b"
        r"|\b(?:package|module|library|plugin|extra|engine"
        r"|driver)\b.{0,60}\bnot (?:be )?(?:installed|found)\b"
        r"|\bpip install\b|\bconda install\b|\bcannot open shared object\b"
        r"|\bis not installed\b|\bcommand not found\b",
    ),
    Suggestion(
        "version_mismatch",
        r"Version(?:Mismatch|Conflict|Error)|Incompatib",
        r"\bversions? (?:mismatch|conflict)\w*|\bmismatched versions?\b"
        r"|\b(?:incompatible|unsupported|wrong|different) (?:\w+ ){0,2}versions?\b"
        r"|\bversion is (?:insufficient|too old|too new|incompatible)\b"
        r"|\bnot compatible with\b|\bincompatible with\b"
        r"|\bversion\b.{0,60}\bis not supported\b",
    ),
    Suggestion(
        "serialization",
        r"Seriali[sz]|Pickl",
        r"\b(?:un)?pickl\w+|\b(?:de)?seriali[sz]\w+",
    ),
    Suggestion(
        "credential",
        r"Auth(?!or(?![a-z]*iz))|Permission|Credential|Forbidden|Unauthorized|AccessDenied",
        r"\b(?:permission|access)(?: is| was)? denied\b|\bnot (?:authori[sz]ed|permitted"
        r"|allowed to)\b"
        r"|\b(?:un)?authori[sz]ation (?:failed|required|error)|\bunauthori[sz]ed\b|\bforbidden\b"
        r"|\blicen[cs]ed? (?:\w+ ){0,3}(?:not valid|invalid|expired|denied|not found|to '|to \")"
        r"|\brequest denied\b|\b(?:invalid|deleted|unauthorized)_(?:client|grant|token)\b"
        r"|\bauthentication\b|\b(?:invalid|expired|missing|bad|wrong|no) (?:\w+ ){0,2}"
        r"(?:credentials?|tokens?|api[- ]?keys?|passwords?)\b"
        r"|\b(?:credentials?|token|api[- ]?key|certificate) (?:has |have |is |are |was )?"
        r"(?:expired|invalid|missing|revoked|not found)\b|\bcould not (?:log ?in|authenticate)\b"
        + _status("40[13]"),
    ),
    Suggestion(
        "timeout",
        r"Time(?:d)?[Oo]ut|DeadlineExceeded",
        r"\btim(?:ed|ing)[ -]out\b|\btime-?out (?:error|exceeded|expired|reached|occurred"
        r"|waiting|while|after|of)\b"
        r"|\b(?:connection|connect|read|write|request|response|lock|query|gateway|socket|server) "
        r"timeout\b|^timeout\b|\bdeadline exceeded\b|\btook too long\b"
        r"|\b(?:no|without) (?:response|answer|reply)\b|\bdid not (?:respond|answer|reply"
        r"|finish in time)\b"
        r"|\btime limit (?:was )?(?:exceeded|reached)\b" + _status("(?:408|504)"),
    ),
    Suggestion(
        "connection",
        r"Connect|Network|Unreachable|Socket|Disconnected|RateLimit|Throttl|ServiceUnavailable",
        r"\bconnection (?:\w+ ){0,4}(?:refused|reset|aborted|closed|lost|broken|dropped|failed"
        r"|error|failure)"
        r"|\b(?:cannot|can't|could not|couldn't|unable to|failed to|failure to) (?:re)?connect\b"
        r"|\blost (?:the |its )?connection\b|\bbroken pipe\b|\bunreachable\b|\bno route to host\b"
        r"|\bname (?:or service not known|resolution)\b|\bcould not resolve\b|\bpeer closed\b"
        r"|\b(?:service|server) (?:is )?(?:temporarily )?(?:unavailable|down|busy"
        r"|not available)\b"
        r"|\bbad gateway\b|\btoo many requests\b|\brate limit\w*|\bthrottl\w+|\bslow ?down\b"
        r"|\bnetwork (?:error|failure|problem|is down)\b|\bserver disconnected\b"
        + _status("(?:429|50[0-3])"),
    ),
    Suggestion(
        "missing_file",
        r"(?:File|Path|Object|Key|Bucket|Table|Dataset|Store|Group|Array)NotFound|NoSuch(?:File"
        r"|Key|Bucket|Object)",
        r"\bdoes not exist in the file ?system\b"
        r"|\bno such (?:file|directory|key|bucket|object|table|path|dataset)\b"
        r"|\b(?:file|path|directory|folder|bucket|object|table|dataset|blob|url)s?\b[^.;]{0,120}"
        r"\b(?:does not exist|do not exist|doesn't exist|not found|not be found|is missing"
        r"|cannot be (?:found|opened))"
        r"|\b(?:cannot|can't|could not|couldn't|unable to|failed to) (?:find|open|locate"
        r"|access) (?:the )?"
        r"(?:\w+ )?(?:file|path|directory|folder|dataset|object)\b"
        r"|\b(?:missing|nonexistent|non-existent) (?:\w+ )?(?:file|path|directory|folder)\b"
        r"|\bnot a directory\b"
        r"|\b(?:cannot|can't|could not|couldn't|unable to|failed to) (?:find|open) \S{0,200}[/\\]"
        + _status("404"),
    ),
    Suggestion(
        "killed",
        r"Killed",
        r"\b(?:was|been|got) killed\b|\bkilled by\b|\bSIG(?:KILL|TERM)\b|\bsignal (?:9|15)\b"
        r"|\bexit (?:code|status) (?:137|143)\b"
        r"|\bterminated (?:abruptly|unexpectedly|by signal)\b|\bdied unexpectedly\b",
    ),
    Suggestion(
        "cancelled",
        r"Cancel|Interrupted|AbortedByUser",
        r"\b(?:was |were |been |is )?cancell?ed\b|\binterrupted\b|\baborted by (?:the )?user\b",
    ),
    Suggestion(
        "model_runtime",
        r"Converge|Solver|Simulation|Singular|Infeasible|Numerical",
        r"\b(?:not|no|failed to|did not|didn't|without) converg\w+|\bsingular matrix\b"
        r"|\bnon-?zero (?:exit|return)\w*|\b(?:exit(?:ed)?|return(?:ed)?|finished|failed|ended)"
        r"(?: with)?(?: an?)? (?:\w+ )?(?:code|status)[ :=]{1,3}-?[1-9]\d*\b"
        r"|\b(?:CUDA|cuDNN|cuBLAS|NCCL|GPU|device)\b.{0,40}\berror\b|\binfeasible\b"
        r"|\bunbounded problem\b"
        r"|\b(?:solver|simulation|optimi[sz]er|model|integration|solution)\b.{0,40}\b(?:failed"
        r"|fails|diverged|crashed|blew up)"
        r"|\bNaNs? (?:or infinity |or inf )?(?:in|encountered|values? in|found|detected|loss)\b"
        r"|\bloss is nan\b",
    ),
    Suggestion(
        "input_validation",
        r"Validation|Invalid|Schema|Pars(?:e|ing)|Decod|Malformed|Corrupt|BadData|DataError"
        r"|Format|Unsupported",
        r"\b(?:invalid|malformed|corrupt(?:ed)?|illegal|ill-formed|unparsable|truncated)\b"
        r"|\bmissing (?:required )?(?:\w+ )?(?:columns?|keys?|fields?|values?|arguments?"
        r"|variables?|data)\b"
        r"|\bexpected\b.{0,120}\b(?:got|but|found|received|actual|instead)\b"
        r"|\b(?:cannot|can't|could not|couldn't|unable to|failed to) (?:parse|decode|convert"
        r"|read|interpret|understand)\b"
        r"|\bmust (?:not )?be\b|\bshould be\b|\bnot a valid\b|\bout of (?:range|bounds)\b"
        r"|\bbad (?:header|data|input|value|record|row|line|format)\b|\bunexpected (?:\w+ )?"
        r"(?:value|type|token|character|column|key|end|eof|input|format)\b"
        r"|\bdo(?:es)? not match\b|\bmismatch(?:ed)?\b|\bduplicate[ds]?\b|\bnot unique\b"
        r"|\bunknown (?:column|key|field|variable|option|argument|parameter|format|type)\b"
        r"|\b(?:columns?|keys?|fields?|variables?)\b.{0,60}\b(?:not found|missing"
        r"|do(?:es)? not exist)\b"
        r"|\bunsupported (?:\w+ )?(?:type|format|dtype|value|file)\b|\bempty (?:data|file|input"
        r"|frame|array|sequence)\b",
    ),
)
_SUGGESTED: Final = tuple(
    (
        suggestion.cause,
        re.compile(suggestion.name) if suggestion.name else None,
        re.compile(suggestion.words, re.IGNORECASE),
    )
    for suggestion in SUGGESTIONS
)
#: Of these a message is a name that the code uses.
_NAMES_ONLY: Final = frozenset(
    {"KeyError", "AttributeError", "NameError", "UnboundLocalError", "NotImplementedError"}
)
#: A single quoted word is a value, not what happened.
_QUOTED_WORD: Final = re.compile(r"'[^'\s]{0,200}'|\"[^\"\s]{0,200}\"|`[^`\s]{0,200}`")
#: What makes the words after it say the opposite.
_NEGATED: Final = re.compile(
    r"(?:\bnot|\bno|\bnever|\bwithout|n't)\b[\s:,]*(?:\w+\s+){0,2}$", re.IGNORECASE
)
#: Characters of a message in which words are looked for.
_MAX_SUGGESTED: Final = 600
#: An exception that another one's message quotes.
_QUOTED_CLASS: Final = re.compile(r"\b((?:[a-z_]\w{0,40}\.){0,6}[A-Z]\w{2,60})(?=\(|:(?:\s|$))")
_QUOTED_ERRNO: Final = re.compile(r"\b[Ee]rrno[ =:]{1,3}(\d{1,3})\b")


def _by_suggestion(exception: _Exception) -> Verdict | None:
    if exception.bare in _NAMES_ONLY:
        return None
    text = exception.message
    if len(text) > _MAX_SUGGESTED:
        # What happened stands at the beginning of a long text, or at its end.
        text = f"{text[: _MAX_SUGGESTED * 2 // 3]} {text[-_MAX_SUGGESTED // 3 :]}"
    return _suggested(exception.bare, text)


@lru_cache(maxsize=1_000)
def _suggested(name_of_class: str, text: str) -> Verdict | None:
    # Thousands of failures may have one message, and most rules are tried in vain.
    for match in _QUOTED_CLASS.finditer(text):
        quoted = match[1]
        found = TYPES.get(quoted) or TYPES.get(quoted.rpartition(".")[2])
        if found is not None:
            return Verdict(found[0], "low", (f"the message names {quoted}",))
    match = _QUOTED_ERRNO.search(text)
    found = ERRNOS.get(_errno.errorcode.get(int(match[1]), "")) if match else None
    if match and found is not None:
        return Verdict(found[0], "low", (f"the message says “{match[0]}”",))
    text = _QUOTED_WORD.sub("'…'", text)
    for cause, name, words in _SUGGESTED:
        if name is not None and name.search(name_of_class):
            return Verdict(cause, "low", (f"the class is named {name_of_class}",))
        for match in words.finditer(text):
            if _NEGATED.search(text[max(0, match.start() - 40) : match.start()]) is None:
                said = " ".join(match[0].split())[:80]
                return Verdict(cause, "low", (f"by its own words: “{said}”",))
    return None


# -- rules: how a worker's process ended -----------------------------------------------------------

#: Signals by which a process ends because of what its own code did.
CRASH_SIGNALS: Final = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS"})
#: What Dask says of a process whose exit status it could not read.
LOST_STATUS: Final = 255
#: A worker that ended so close to its job's time limit (seconds) ended because of it.
NEAR_LIMIT: Final = 30.0

# What stands at the beginning of a line of the last output: of the process, its batch system, the
# kernel.
_FATAL: Final = re.compile(
    r"^(?:Fatal Python error: (?:Segmentation fault|Aborted|Bus error|Floating[- ]point exception"
    r"|Illegal instruction)|\*\*\* stack smashing detected|double free or corruption"
    r"|terminate called after throwing an instance of|(?:malloc|free|realloc|munmap_chunk)\(\): "
    r"|corrupted (?:size|double-linked)|Segmentation fault|Bus error|Illegal instruction"
    r"|\*\*\* Check failure stack trace|.{0,120}\(core dumped\))",
    re.MULTILINE,
)
_SLURM: Final = r"slurmstepd\S{0,80}: error: \*\*\* .{0,200}"
_TIME_LIMIT: Final = re.compile(
    rf"^(?:{_SLURM}DUE TO TIME LIMIT|=>> PBS: job killed: walltime|TERM_RUNLIMIT: )", re.MULTILINE
)
_PREEMPTED: Final = re.compile(
    rf"^(?:{_SLURM}DUE TO PREEMPTION|TERM_PREEMPT: |job preempted\b)", re.MULTILINE
)
_NO_SPACE: Final = re.compile(
    r"No space left on device|Disk quota exceeded|ephemeral local storage usage exceeds"
)
#: What the nanny logs as it ends a worker.
_MEMORY_BUDGET: Final = re.compile(r"exceeded \d{1,3}% memory budget")
#: What a process wrote that died because a module was not there: the last lines of a traceback.
_IMPORT_FAILED: Final = re.compile(
    r"^(?:ModuleNotFoundError|ImportError): [^\n]{1,300}", re.MULTILINE
)
_NO_HEARTBEAT: Final = frozenset({"worker-ttl", "worker-ttl-timeout", "heartbeat-lost"})
_OOM_WORDS: Final = re.compile(
    r"^(?:slurmstepd\S{0,80}: error: Detected \d+ oom[-_]kill event|TERM_MEMLIMIT: "
    r"|srun: error: .{0,80}Out Of Memory"
    r"|(?:\[ *\d+\.\d+\] )?(?:Memory cgroup o|O)ut of memory: Kill"
    r"|.{0,120}\bOOMKilled\b)",
    re.MULTILINE,
)

_Rule: TypeAlias = Callable[[Case], "Verdict | None"]


class DeathRule(NamedTuple):
    """One rule of the table of deaths, with what it says in words."""

    cause: str
    confidence: Confidence
    says: str
    judge: _Rule


def _when(
    cause: str, confidence: Confidence, says: str, test: Callable[[Case], object]
) -> DeathRule:
    def judge(case: Case) -> Verdict | None:
        return Verdict(cause, confidence, (says, *_ending(case))) if test(case) else None

    return DeathRule(cause, confidence, says, judge)


def _signal_of(case: Case) -> str | None:
    """The signal that ended the process: a shell gives its number and 128 for a status."""
    if case.signal or case.exit_code is None or not 128 < case.exit_code < _LAST_SIGNAL:
        return case.signal
    try:
        return signal.Signals(case.exit_code - 128).name
    except ValueError:
        return None


#: Above that no status stands for a signal.
_LAST_SIGNAL: Final = 128 + 32


def _import_failed(case: Case) -> str:
    """What the end of a worker's output says of an import."""
    found = _IMPORT_FAILED.findall("\n".join(case.stderr_tail.splitlines()[-60:]))
    return found[-1] if found else ""


def _is_slurm_term(case: Case) -> bool:
    asked = case.signal in ("SIGTERM", "SIGKILL") or case.reason in ("signal-15", "signal-2")
    return asked or case.exit_code in (0, None)


#: How a lost worker is judged, in this order: the surest sign first.
DEATHS: Final = (
    _when(
        "memory_limit",
        "high",
        "the nanny ended it because its memory was above the limit",
        lambda case: case.memory_kill or case.reason == "memory-limit",
    ),
    _when(
        "oom",
        "high",
        "the kernel's out-of-memory killer ended a process of its control group",
        lambda case: case.oom_kills_group and case.signal == "SIGKILL",
    ),
    _when(
        "oom",
        "high",
        "the batch system detected a kill for lack of memory",
        lambda case: _OOM_WORDS.search(case.stderr_tail),
    ),
    _when(
        "memory_limit",
        "medium",
        "its last output says that it exceeded its memory budget",
        lambda case: not case.signal and _MEMORY_BUDGET.search(case.stderr_tail),
    ),
    _when(
        "segfault",
        "high",
        "the process was ended by a signal that its own code caused",
        lambda case: _signal_of(case) in CRASH_SIGNALS,
    ),
    _when(
        "preempted",
        "high",
        "the batch system wrote that the job was preempted",
        lambda case: _PREEMPTED.search(case.stderr_tail),
    ),
    _when(
        "walltime",
        "high",
        "the batch system wrote that the time limit was reached",
        lambda case: _TIME_LIMIT.search(case.stderr_tail),
    ),
    _when(
        "walltime",
        "high",
        "the worker's own --lifetime was over",
        lambda case: "lifetime" in case.reason,
    ),
    _when(
        "walltime",
        "medium",
        "it ended when its batch job's time was over",
        lambda case: (
            case.time_left is not None and case.time_left < NEAR_LIMIT and _is_slurm_term(case)
        ),
    ),
    _when(
        "timeout",
        "high",
        "Dask itself ended the worker: the scheduler heard no heartbeat of it for "
        "distributed.scheduler.worker-ttl",
        lambda case: (
            case.reason in _NO_HEARTBEAT and (case.worker_ttl is not None or bool(case.signal))
        ),
    ),
    _when(
        "oom",
        "medium",
        "the kernel's out-of-memory killer ended a process on its host just then",
        lambda case: case.oom_kills_host and case.signal == "SIGKILL",
    ),
    _when(
        "killed",
        "high",
        "a signal from outside ended the process",
        lambda case: _signal_of(case) or re.match(r"signal-\d+$", case.reason),
    ),
    _when(
        "segfault",
        "medium",
        "its last output is that of a crash; how the process ended is not known",
        lambda case: case.exit_code in (None, LOST_STATUS) and _FATAL.search(case.stderr_tail),
    ),
    _when(
        "import_error",
        "medium",
        "its last output says that a module cannot be imported",
        lambda case: case.exit_code in (None, 0, 1) and _import_failed(case),
    ),
    _when(
        "disk_full",
        "medium",
        "its last output says that there is no space left",
        lambda case: case.exit_code != 0 and _NO_SPACE.search(case.stderr_tail),
    ),
    _when(
        "connection",
        "high",
        "the process ended in good order after it had lost its connection to the scheduler",
        lambda case: (
            case.exit_code == 0 and ("connection" in case.reason or case.reason in _NO_HEARTBEAT)
        ),
    ),
    _when(
        "unknown",
        "low",
        "its process ended, and Dask lost the status (it says 255 then)",
        lambda case: case.exit_code == LOST_STATUS,
    ),
    _when(
        "exited",
        "high",
        "the process ended itself with an exit status",
        lambda case: case.exit_code not in (None, LOST_STATUS),
    ),
    _when(
        "connection",
        "medium",
        "the scheduler heard no heartbeat of it",
        lambda case: case.reason in _NO_HEARTBEAT,
    ),
    _when(
        "connection",
        "medium",
        "the connection was cut while its process lived on",
        lambda case: case.reason == "connection-lost, process alive",
    ),
    _when(
        "killed",
        "medium",
        "worker and nanny went away together without a word, and the worker's process is gone",
        lambda case: case.reason == "connection-lost, nanny silent, process gone",
    ),
    _when(
        "killed",
        "medium",
        "its process is gone without a word; it ran without a nanny, so that how it ended is not "
        "known",
        lambda case: case.reason == "connection-lost, process gone",
    ),
    _when(
        "killed",
        "low",
        "worker and nanny went away together without a word: both were killed, or their host or "
        "its network failed",
        lambda case: case.reason == "connection-lost, nanny silent",
    ),
    _when(
        "connection",
        "low",
        "its connection broke, and nothing says how its process ended",
        lambda case: case.reason in ("connection-lost", "connection-lost, no nanny"),
    ),
)


def _judge_death(case: Case) -> Verdict:
    for rule in DEATHS:
        verdict = rule.judge(case)
        if verdict is not None:
            if verdict.confidence == "low":
                # Nothing is known of the end itself: the last output may tell.
                return _by_last_output(case) or verdict
            return verdict
    said = f"the scheduler said “{case.reason}”" if case.reason else "no reason was recorded"
    return Verdict("unknown", "low", (said,))


#: Causes that the last output of a process may suggest: others stand in many a log.
_WRITTEN: Final = frozenset(
    {
        "oom", "segfault", "disk_full", "preempted", "walltime", "import_error", "version_mismatch",
        "serialization", "credential", "timeout",
    }
)  # fmt: skip


def _by_last_output(case: Case) -> Verdict | None:
    """What the last lines say, with low confidence: they may be of something that was survived."""
    lines = [line.strip() for line in case.stderr_tail.splitlines() if line.strip()]
    for line in reversed(lines[-_LAST_LINES:]):
        match = _LAST_LINE.match(line)
        verdict = None
        if match is not None and match[2] and match[1].rpartition(".")[2][:1].isupper():
            verdict = classify(Case(match[1], match[2]))
        if verdict is None or verdict.cause not in _WRITTEN:
            verdict = _suggested("", line[:_MAX_SUGGESTED])
        if verdict is not None and verdict.cause in _WRITTEN:
            return Verdict(verdict.cause, "low", (f"its last output says “{line[:120]}”",))
    return None


#: Lines of the end of an output that are looked at.
_LAST_LINES: Final = 10


def _ending(case: Case) -> Iterable[str]:
    if case.signal:
        yield f"signal {case.signal}"
    elif case.exit_code is not None:
        yield f"exit status {case.exit_code}"
    if said := _import_failed(case):
        yield said


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def table() -> str:
    """Return the table of causes, and of how a lost worker is judged, as the documentation has it.

    Printed by ``python -m scalable.causes``.
    """
    lines = ["| cause | means | what usually helps |", "|---|---|---|"]
    lines += [f"| `{cause.name}` | {cause.meaning} | {cause.remedy} |" for cause in CAUSES.values()]
    lines += ["", "A lost worker is judged by the first of these that holds:", ""]
    lines += ["| because | cause |", "|---|---|"]
    lines += [f"| {rule.says} | `{rule.cause}` |" for rule in DEATHS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
