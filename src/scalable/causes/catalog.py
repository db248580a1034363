"""The catalog of causes: what each means, what helps, and the signs by which it is recognised.

A cause is one row. Rows are tried in this order by each kind of sign (error numbers, types,
phrases, hints), so a cause with a broad sign stands below those with narrow ones. The signs of a
lost worker are in :mod:`scalable.causes.deaths`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

Confidence: TypeAlias = Literal["high", "medium", "low"]
#: Names separated by blanks, by the confidence of a verdict that rests on one of them.
Names: TypeAlias = Mapping[Confidence, str]
_NONE: Final[Names] = {}
_NO_PHRASES: Final[Mapping[Confidence, tuple[tuple[str, str], ...]]] = {}


class Hint(NamedTuple):
    """Words that may indicate a cause; they may stand there for another reason."""

    #: Searched for in the name of the exception's class.
    class_name: str
    #: Searched for anywhere in the message, in any case.
    words: str


class Cause(NamedTuple):
    """One row of the catalog."""

    name: str
    #: What happened, as a heading.
    title: str
    #: Which failures have this cause.
    meaning: str
    #: What usually helps.
    remedy: str
    #: Error numbers of the operating system, by name.
    errnos: Names = _NONE
    #: Exception classes; one with a dot is compared together with its module.
    types: Names = _NONE
    #: Exception classes that many things raise: used only if nothing else decides.
    generic_types: Names = _NONE
    #: Packages: the exception was raised in their code.
    packages: Names = _NONE
    #: What known libraries write at the beginning of a message: who writes it, and the pattern
    #: (``^`` is implied), by confidence, in the order in which they are tried.
    phrases: Mapping[Confidence, tuple[tuple[str, str], ...]] = _NO_PHRASES
    hint: Hint | None = None


def _http(codes: str, reasons: str) -> str:
    """Match an HTTP status as urllib, requests, httpx and aiohttp write it; never a bare number."""
    return (
        rf"(?:HTTP Error (?:{codes})\b|(?:{codes}) (?:Client|Server) Error: "
        rf"|(?:Client|Server) error '(?:{codes}) |(?:{codes}),? (?:message=)?['\"]?(?:{reasons}))"
    )


def _status(codes: str) -> str:
    """Match an HTTP status anywhere in a message; never a bare number."""
    return (
        rf"|\b(?:status|code|error|HTTP(?:/[\d.]{1, 4})?)[ :=(]{{1,3}}(?:{codes})\b"
        rf"|\b(?:{codes}) (?:client|server) error\b"
    )


_ROWS: Final = (
    Cause(
        "oom",
        "Out of memory",
        "The operating system, or an allocator, had no memory left: the kernel's out-of-memory "
        "killer, MemoryError, a failed allocation on a GPU.",
        "Give each worker more memory or fewer threads, or make the pieces smaller (chunk or "
        "partition size).",
        errnos={"high": "ENOMEM"},
        types={
            "high": "MemoryError _ArrayMemoryError ArrowMemoryError OutOfMemoryError "
            "CUDAMemoryError rmm.OutOfMemory",
            "medium": "ResourceExhaustedError",
        },
        phrases={
            "high": (
                ("numpy", r"Unable to allocate \S+ [KMGTPE]?i?B(?:ytes)? for an array"),
                ("torch", r"(?:CUDA|HIP|MPS backend) out of memory\b"),
                ("torch", r"\[enforce fail at .{0,80}\] .{0,80}DefaultCPUAllocator: "),
                ("torch", r"(?:CUDA|CUBLAS|cuDNN) error: (?:out of memory|\w+_ALLOC_FAILED)"),
                ("tensorflow", r"(?:\w+: )?OOM when allocating tensor"),
                ("jax", r"RESOURCE_EXHAUSTED: (?:Out of memory|.{0,80}allocat)"),
                ("C++", r"std::bad_alloc\b"),
                ("pyarrow", r"(?:malloc|realloc) of size \d+ failed"),
                ("polars, Rust", r"memory allocation of \d+ bytes failed"),
                ("Java", r"(?:.{0,80}: )?java\.lang\.OutOfMemoryError"),
                ("rmm", r"std::bad_alloc: out_of_memory"),
                (
                    "CUDA",
                    r"(?:.{0,120}\b)?(?:CUDNN|CUBLAS|CUSOLVER|CUSPARSE|CUFFT)_STATUS_ALLOC_FAILED",
                ),
            ),
            "medium": (("DuckDB", r"Out of Memory Error: "),),
        },
        hint=Hint(
            r"OutOfMemory|OOM|MemoryLimit|MemoryExhausted|InsufficientMemory",
            r"(?-i:\bOOM(?:-?[Kk]ill\w*)?\b)|\bout[ -]of[ -](?:\w+ )?memory\b|\bmemory (?:limit"
            r"|budget|quota) (?:\w+ ){0,3}exceeded\b|\b(?:exceed\w*|above|over|beyond|past|hit"
            r"|reached) (?:\w+ ){0,3}memory (?:limit|budget|quota)|\b(?:insufficient|not enough"
            r"|no more|too little) (?:\w+ )?memory\b|\b(?:cannot|can't|could not|couldn't|unable to"
            r"|failed to) alloc\w*|\bmemory (?:is )?exhausted\b|\bmemory allocation (?:failed"
            r"|failure|error)|\bneeds? more memory\b|\bbad_alloc\b",
        ),
    ),
    Cause(
        "memory_limit",
        "Worker above its memory limit",
        "The nanny ended a worker that used more than its share of the memory limit "
        "(distributed.worker.memory.terminate, 95 % unless set).",
        "Raise the worker's memory limit, run fewer threads on it, or make the pieces smaller.",
    ),
    Cause(
        "disk_full",
        "Disk full",
        "No space left on a device, or over quota.",
        "Free space or point the worker's local directory and outputs to a larger disk.",
        errnos={"high": "ENOSPC EDQUOT", "medium": "EFBIG"},
        phrases={
            "high": (
                (
                    "the system",
                    r"(?:\[Errno \d+\] |[\w./: -]{0,120}: )?(?:No space left on device"
                    r"|Disk quota exceeded)",
                ),
                ("SQLite", r"(?:\(sqlite3\.OperationalError\) )?database or disk is full"),
                ("HDF5", r"(?:.{0,200}errno = 28, error message = 'No space left)"),
                ("PostgreSQL", r"could not (?:extend|write to) file .{0,200}: No space left"),
            ),
        },
        hint=Hint(
            r"DiskFull|NoSpace|QuotaExceeded",
            r"\bno space left\b|\b(?:disk|filesystem|file system|volume|device) (?:is )?full\b"
            r"|\bdisk quota\b|\bout of disk\b|\b(?:not enough|insufficient"
            r"|no more) (?:free )?(?:disk|storage)(?: space)?\b|\bENOSPC\b",
        ),
    ),
    Cause(
        "segfault",
        "Crash in native code",
        "The process crashed: SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGABRT.",
        "Look at the stack (the worker's log has all of it); update the library on top of it, and "
        "run it with one thread if it is not thread-safe.",
        phrases={
            "high": (
                (
                    "subprocess",
                    r"Command .{0,4000}? died with <Signals\.SIG(?:SEGV|BUS|ILL|FPE|ABRT)",
                ),
            ),
            "medium": (
                (
                    "subprocess",
                    r"Command .{0,4000}? returned non-zero exit status (?:-(?:4|6|7|8|11)|13[2459]"
                    r"|136)\b",
                ),
                ("ctypes", r"(?:\w{1,20}: )?access violation (?:reading|writing) 0x"),
            ),
        },
        hint=Hint(
            r"SegmentationFault|Segfault",
            r"\bsegmentation fault\b|\bsegfault\w*|\bSIG(?:SEGV|BUS|ILL|ABRT)\b|\bcore dumped\b"
            r"|\bexit (?:code|status) (?:139|-11)\b",
        ),
    ),
    Cause(
        "preempted",
        "Machine taken away",
        "The batch system or the cloud provider took the machine back.",
        "Expect it: raise allowed-failures, use retries, or take nodes that cannot be preempted.",
        phrases={
            "high": (("Slurm", r"slurmstepd-\S+: error: \*\*\* .{0,120} DUE TO PREEMPTION"),),
        },
        hint=Hint(
            r"Preempt|SpotInterruption",
            r"\bpre-?empt(?:ed|ion)\b|\bspot (?:instance|interruption)\w*|\bevicted\b",
        ),
    ),
    Cause(
        "walltime",
        "Time limit reached",
        "The batch job's time limit, or the worker's own --lifetime, was over.",
        "Ask for a longer time limit, or give workers a --lifetime below it together with "
        "--lifetime-stagger, so that they hand over their work before they go.",
        phrases={
            "high": (("Slurm", r"slurmstepd-\S+: error: \*\*\* .{0,120} DUE TO TIME LIMIT"),),
        },
        hint=Hint(
            r"Wall[Tt]ime|TimeLimit",
            r"\bwall[- ]?(?:time|clock)(?: limit)?\b|\bjob (?:\w+ ){0,3}time limit\b",
        ),
    ),
    Cause(
        "import_error",
        "Module cannot be imported",
        "A module or a name in it is not there where the task ran.",
        "Install the package on the workers (PipInstall plugin, image, environment), or send your "
        "own module with client.upload_file.",
        types={"high": "ModuleNotFoundError ImportError DistributionNotFound PackageNotFoundError"},
        phrases={
            "high": (("the loader", r"\S+: cannot open shared object file: "),),
        },
        hint=Hint(
            r"MissingDependency|DependencyNotFound|MissingPackage|PluginNotFound",
            r"\bno module named\b|\bcannot import\b|\bmissing (?:optional )?dependency\b"
            r"|\b(?:package|module|library|plugin|extra|engine"
            r"|driver)\b.{0,60}\bnot (?:be )?(?:installed|found)\b|\bpip install\b"
            r"|\bconda install\b|\bcannot open shared object\b|\bis not installed\b"
            r"|\bcommand not found\b",
        ),
    ),
    Cause(
        "version_mismatch",
        "Versions do not fit",
        "Client, scheduler and workers, or two libraries, have versions that do not fit.",
        "Make the environments equal; client.get_versions(check=True) names the differences.",
        types={
            "high": "VersionMismatch VersionConflict ContextualVersionConflict "
            "InconsistentVersionWarning",
        },
        phrases={
            "medium": (("pip", r".{0,120}\bbut you have \S+ \d+\.\d+\S* which is incompatible"),),
            "high": (
                ("pickle", r"unsupported pickle protocol: \d"),
                (
                    "numpy",
                    r"numpy\.(?:dtype|ndarray"
                    r"|ufunc) size changed, may indicate binary incompatibility",
                ),
                ("numpy", r"\s*A module that was compiled using NumPy 1\.x cannot be run in"),
                ("numpy", r"numpy\.core\.multiarray failed to import"),
                ("the loader", r"\S+: undefined symbol: "),
                ("the loader", r"\S+: version [`'‘]\w+_[\d.]+['’] not found"),
                ("Python", r"bad magic number in "),
                ("Python", r"code(?:\(\)|expected) (?:argument|at (?:most|least)) "),
                ("distributed", r"Mismatched versions found"),
                (
                    "any",
                    r"\S+ (?:requires|needs) (?:version )?\S+? ?(?:>=|<=|==|~=|!=|<"
                    r"|>) ?\d\S*,? (?:but|found|you have)",
                ),
                ("pandas", r"Pandas requires version '[^']+' or newer of '"),
            ),
        },
        hint=Hint(
            r"Version(?:Mismatch|Conflict|Error)|Incompatib",
            r"\bversions? (?:mismatch|conflict)\w*|\bmismatched versions?\b|\b(?:incompatible"
            r"|unsupported|wrong|different) (?:\w+ ){0,2}versions?\b|\bversion is (?:insufficient"
            r"|too old|too new|incompatible)\b|\bnot compatible with\b|\bincompatible with\b"
            r"|\bversion\b.{0,60}\bis not supported\b",
        ),
    ),
    Cause(
        "serialization",
        "Cannot be sent between processes",
        "A function, argument, result or exception cannot be pickled or unpickled.",
        "Make locks, connections and open files inside the task instead of passing them in.",
        types={
            "high": "PicklingError UnpicklingError PickleError MaybeEncodingError JSONEncodeError",
            "low": "ArrowNotImplementedError",
        },
        packages={"medium": "cloudpickle"},
        phrases={
            "high": (
                ("pickle", r"(?:cannot|can't) pickle '?[\w.]+'? objects?"),
                ("pickle", r"[Cc]an't (?:pickle|get local object) "),
                ("pickle", r"Can't get attribute '[^']*' on <module "),
                ("pickle", r"(?:pickle data was truncated|Ran out of input$)"),
                ("distributed", r"(?:\(['\"])?[Cc]ould not (?:de)?serialize object of type "),
                ("distributed", r"Error during deserialization of the task graph"),
                ("json", r"Object of type \w+ is not JSON serializable"),
                ("msgpack", r"can ?not serialize '[\w.]+' object"),
            ),
            "medium": (
                ("pickle", r"__init__\(\) missing \d+ required positional argument.{0,80}$"),
            ),
        },
        hint=Hint(
            r"Seriali[sz]|Pickl",
            r"\b(?:un)?pickl\w+|\b(?:de)?seriali[sz]\w+",
        ),
    ),
    Cause(
        "credential",
        "Access denied",
        "A login, a token or a permission was missing, wrong or expired.",
        "Check that the workers, not only the client, have valid credentials and permissions.",
        errnos={"high": "EACCES EPERM", "medium": "EROFS"},
        types={
            "high": "PermissionError NoCredentialsError PartialCredentialsError "
            "CredentialRetrievalError TokenRetrievalError UnauthorizedSSOTokenError "
            "DefaultCredentialsError RefreshError ClientAuthenticationError "
            "CredentialUnavailableError AuthenticationException AuthenticationError "
            "AuthorizationError PermissionDenied PermissionDeniedError Unauthenticated "
            "Unauthorized Forbidden InvalidPasswordError InsufficientPrivilegeError",
        },
        phrases={
            "high": (
                (
                    "AWS",
                    r"An error occurred \((?:AccessDenied\w*|ExpiredToken\w*|InvalidAccessKeyId|403"
                    r"|SignatureDoesNotMatch|UnauthorizedOperation|InvalidClientTokenId"
                    r"|UnrecognizedClient\w*|AuthFailure)\) when calling",
                ),
                ("HTTP", _http("401|403|407", "Unauthorized|Forbidden")),
                (
                    "PostgreSQL",
                    r"(?:.{0,200}(?:FATAL:\s{1,4}"
                    r"|failed: ))?(?:password authentication failed for user|no pg_hba\.conf entry"
                    r"|fe_sendauth: no password supplied|role \"[^\"]{1,80}\" does not)",
                ),
                ("MySQL", r"\(?(?:1045, ['\"])?Access denied for user "),
                ("OpenSSH", r"Permission denied \((?:publickey|password)"),
                ("google-auth", r"Your default credentials were not found"),
                ("GCS", r"(?:Anonymous caller|\S+@\S+) does not have storage\.\S+ access"),
                ("botocore", r"Unable to locate credentials"),
                ("git", r"(?:fatal: )?Authentication failed for '"),
            ),
        },
        hint=Hint(
            r"Auth(?!or(?![a-z]*iz))|Permission|Credential|Forbidden|Unauthorized|AccessDenied",
            r"\b(?:permission|access)(?: is| was)? denied\b|\bnot (?:authori[sz]ed|permitted"
            r"|allowed to)\b|\b(?:un)?authori[sz]ation (?:failed|required|error)"
            r"|\bunauthori[sz]ed\b|\bforbidden\b|\blicen[cs]ed? (?:\w+ ){0,3}(?:not valid|invalid"
            r"|expired|denied|not found|to '|to \")|\brequest denied\b|\b(?:invalid|deleted"
            r"|unauthorized)_(?:client|grant|token)\b|\bauthentication\b|\b(?:invalid|expired"
            r"|missing|bad|wrong|no) (?:\w+ ){0,2}(?:credentials?|tokens?|api[- ]?keys?"
            r"|passwords?)\b|\b(?:credentials?|token|api[- ]?key|certificate) (?:has |have |is "
            r"|are |was )?(?:expired|invalid|missing|revoked|not found)\b|\bcould not (?:log ?in"
            r"|authenticate)\b" + _status("40[13]"),
        ),
    ),
    Cause(
        "timeout",
        "Timed out",
        "Something did not answer in time; also a worker that Dask ended since it sent no "
        "heartbeat.",
        "Find out what was slow; raise its time limit only if the wait is legitimate.",
        errnos={"high": "ETIMEDOUT"},
        types={
            "high": "WorkerStartTimeoutError TimeoutError TimeoutExpired FSTimeoutError "
            "ConnectTimeout ReadTimeout ConnectTimeoutError ReadTimeoutError PoolTimeout "
            "WriteTimeout ServerTimeoutError ConnectionTimeoutError SocketTimeoutError "
            "DeadlineExceeded GatewayTimeout",
            "medium": "NoValidWorkerError QueryCanceledError",
        },
        phrases={
            "high": (
                ("subprocess", r"Command .{0,4000}? timed out after [\d.]+ seconds"),
                ("HTTP", _http("408|504", "Request Timeout|Gateway Time-?[Oo]ut")),
                (
                    "urllib3",
                    r"HTTPS?ConnectionPool\(host=.{0,120}\): (?:Read timed out"
                    r"|Max retries exceeded .{0,400}ConnectTimeout)",
                ),
                (
                    "any",
                    r"(?:\w+ )?(?:[Oo]peration|[Rr]equest|[Rr]ead|[Cc]onnection"
                    r"|[Cc]all) timed out\b",
                ),
                ("SQLite", r"(?:\(sqlite3\.OperationalError\) )?database is locked"),
                ("PostgreSQL", r"canceling statement due to (?:statement|lock) timeout"),
            ),
        },
        hint=Hint(
            r"Time(?:d)?[Oo]ut|DeadlineExceeded",
            r"\btim(?:ed|ing)[ -]out\b|\btime-?out (?:error|exceeded|expired|reached|occurred"
            r"|waiting|while|after|of)\b|\b(?:connection|connect|read|write|request|response|lock"
            r"|query|gateway|socket|server) timeout\b|^timeout\b|\bdeadline exceeded\b"
            r"|\btook too long\b|\b(?:no|without) (?:response|answer|reply)\b|\bdid not (?:respond"
            r"|answer|reply|finish in time)\b|\btime limit (?:was )?(?:exceeded|reached)\b"
            + _status("(?:408|504)"),
        ),
    ),
    Cause(
        "connection",
        "Connection failed or lost",
        "A network peer refused, closed or lost the connection; also between Dask's own parts.",
        "Check the network and the peer; use retries for what fails now and then.",
        errnos={
            "high": "ECONNREFUSED ECONNRESET ECONNABORTED EPIPE ENETUNREACH ENETDOWN EHOSTUNREACH "
            "EHOSTDOWN ENOTCONN",
            "medium": "EADDRINUSE",
        },
        types={
            "high": "CommClosedError FatalCommClosedError RPCClosed SourceGoneError "
            "ConnectionError ConnectionRefusedError ConnectionResetError "
            "ConnectionAbortedError BrokenPipeError IncompleteRead RemoteDisconnected "
            "gaierror ConnectError RemoteProtocolError NewConnectionError MaxRetryError "
            "ProtocolError ChunkedEncodingError ClientConnectorError ClientOSError "
            "ServerDisconnectedError ClientPayloadError EndpointConnectionError "
            "ServiceUnavailable ServiceRequestError ConnectionDoesNotExistError",
            "medium": "P2PConsistencyError ReadError ProxyError SSLError ServiceResponseError",
            "low": "InterfaceError",
        },
        packages={"low": "botocore urllib3"},
        phrases={
            "high": (
                (
                    "HTTP",
                    _http(
                        "429|500|502|503",
                        "Too Many Requests|Internal Server Error|Bad Gateway|Service Unavailable",
                    ),
                ),
                (
                    "PostgreSQL",
                    r".{0,200}FATAL:\s{1,4}(?:sorry, too many clients|remaining connection slots"
                    r"|the database system is )",
                ),
                (
                    "PostgreSQL",
                    r"(?:\(psycopg2?\.OperationalError\) )?(?:could not connect to server"
                    r"|connection to server at .{0,120} failed): (?!FATAL)",
                ),
                ("PostgreSQL", r"server closed the connection unexpectedly"),
                ("MySQL", r"\(?(?:2006|2013|2003), ['\"]"),
                ("ssl", r"\[SSL: \w+\] "),
                ("urllib3", r"HTTPS?ConnectionPool\(host=.{0,120}\): Max retries exceeded"),
                ("distributed", r"in <TCP[^>]*>: |Timed out trying to connect to tcp://"),
            ),
            "medium": (
                (
                    "AWS",
                    r"An error occurred \((?:SlowDown|Throttling\w*|RequestLimitExceeded"
                    r"|ServiceUnavailable|InternalError|50\d|RequestTimeout)\) when calling",
                ),
            ),
        },
        hint=Hint(
            r"Connect|Network|Unreachable|Socket|Disconnected|RateLimit|Throttl|ServiceUnavailable",
            r"\bconnection (?:\w+ ){0,4}(?:refused|reset|aborted|closed|lost|broken|dropped|failed"
            r"|error|failure)|\b(?:cannot|can't|could not|couldn't|unable to|failed to"
            r"|failure to) (?:re)?connect\b|\blost (?:the |its )?connection\b|\bbroken pipe\b"
            r"|\bunreachable\b|\bno route to host\b|\bname (?:or service not known|resolution)\b"
            r"|\bcould not resolve\b|\bpeer closed\b|\b(?:service"
            r"|server) (?:is )?(?:temporarily )?(?:unavailable|down|busy|not available)\b"
            r"|\bbad gateway\b|\btoo many requests\b|\brate limit\w*|\bthrottl\w+|\bslow ?down\b"
            r"|\bnetwork (?:error|failure|problem|is down)\b|\bserver disconnected\b"
            + _status("(?:429|50[0-3])"),
        ),
    ),
    Cause(
        "missing_file",
        "File or object not found",
        "A path, an object of a store or a table that is not there.",
        "Check the path as the workers see it: is the file system mounted on their hosts?",
        errnos={"high": "ENOENT", "medium": "ESTALE ENODEV"},
        types={
            "high": "FileNotFoundError NoSuchKey NoSuchBucket ResourceNotFoundError "
            "GroupNotFoundError PathNotFoundError google.api_core.exceptions.NotFound "
            "NoSuchTableError",
            "medium": "NotADirectoryError IsADirectoryError UndefinedTable",
        },
        phrases={
            "high": (
                (
                    "AWS",
                    r"An error occurred \((?:NoSuchKey|NoSuchBucket|404"
                    r"|ResourceNotFound\w*)\) when calling",
                ),
                ("HTTP", _http("404|410", "Not Found|Gone")),
                (
                    "SQLite",
                    r"(?:\(sqlite3\.OperationalError\) )?(?:no such table: "
                    r"|unable to open database file)",
                ),
                ("GDAL, rasterio", r"(?:'?[^\n]{1,300}?'?: )?No such file or directory"),
                (
                    "h5py",
                    r"Unable to (?:synchronously )?open (?:file"
                    r"|object) \(.{0,40}unable to open file",
                ),
                ("zarr", r"(?:group|array) not found at path "),
            ),
            "medium": (("DuckDB", r"IO Error: No files found that match the pattern"),),
        },
        hint=Hint(
            r"(?:File|Path|Object|Key|Bucket|Table|Dataset|Store|Group|Array)NotFound|NoSuch(?:File"
            r"|Key|Bucket|Object)",
            r"\bdoes not exist in the file ?system\b|\bno such (?:file|directory|key|bucket|object"
            r"|table|path|dataset)\b|\b(?:file|path|directory|folder|bucket|object|table|dataset"
            r"|blob|url)s?\b[^.;]{0,120}\b(?:does not exist|do not exist|doesn't exist|not found"
            r"|not be found|is missing|cannot be (?:found|opened))|\b(?:cannot|can't|could not"
            r"|couldn't|unable to|failed to) (?:find|open|locate|access) (?:the )?(?:\w+ )?(?:file"
            r"|path|directory|folder|dataset|object)\b|\b(?:missing|nonexistent"
            r"|non-existent) (?:\w+ )?(?:file|path|directory|folder)\b|\bnot a directory\b"
            r"|\b(?:cannot|can't|could not|couldn't|unable to|failed to) (?:find"
            r"|open) \S{0,200}[/\\]" + _status("404"),
        ),
    ),
    Cause(
        "killed",
        "Killed by a signal from outside",
        "Somebody or something ended the process by a signal, or it went away without a word.",
        "Find who sends the signal: the batch system, the container runtime, an administrator.",
        types={"medium": "BrokenProcessPool", "low": "KilledWorker"},
        phrases={
            "high": (("subprocess", r"Command .{0,4000}? died with <Signals\.SIG(?:KILL|TERM)"),),
            "medium": (
                (
                    "subprocess",
                    r"Command .{0,4000}? returned non-zero exit status (?:-(?:9|15)|137|143)\b",
                ),
            ),
        },
        hint=Hint(
            r"Killed",
            r"\b(?:was|been|got) killed\b|\bkilled by\b|\bSIG(?:KILL|TERM)\b|\bsignal (?:9|15)\b"
            r"|\bexit (?:code|status) (?:137|143)\b|\bterminated (?:abruptly|unexpectedly"
            r"|by signal)\b|\bdied unexpectedly\b",
        ),
    ),
    Cause(
        "exited",
        "The process ended itself",
        "The worker's process ended with an exit status and no signal: sys.exit, os._exit or a "
        "library that calls exit().",
        "Raise an exception instead of ending the process; look for a library that calls exit.",
        types={"high": "SystemExit"},
    ),
    Cause(
        "cancelled",
        "Cancelled",
        "Somebody cancelled it, or nobody needed it any more.",
        "Nothing, if that was meant.",
        types={
            "high": "FutureCancelledError FuturesCancelledError CancelledError KeyboardInterrupt",
        },
        phrases={
            "high": (("distributed", r"\S+ cancelled for reason: "),),
        },
        hint=Hint(
            r"Cancel|Interrupted|AbortedByUser",
            r"\b(?:was |were |been |is )?cancell?ed\b|\binterrupted\b|\baborted by (?:the )?user\b",
        ),
    ),
    Cause(
        "model_runtime",
        "The model or an external program failed",
        "A numerical or machine-learning library refused to compute, or a program that the task "
        "started failed.",
        "Look at the program's own output, and at shapes, devices and parameters of the model.",
        types={
            "high": "LinAlgError ArpackNoConvergence NoConvergence NotFittedError XGBoostError "
            "LightGBMError CatBoostError CUDARuntimeError CudaAPIError CUDADriverError "
            "AcceleratorError DistBackendError XlaRuntimeError JaxRuntimeError "
            "SolverError ModelRuntimeError InvalidGraph",
            "medium": "CalledProcessError InvalidArgumentError FailedPreconditionError "
            "SamplingError FloatingPointError TypingError LoweringError",
        },
        packages={
            "medium": "torch tensorflow keras jax jaxlib xgboost lightgbm onnxruntime transformers "
            "pymc pyomo",
        },
        phrases={
            "high": (
                ("torch", r"mat1 and mat2 shapes cannot be multiplied"),
                ("torch", r"Expected all tensors to be on the same device"),
                ("torch", r"(?:CUDA|cuDNN|CUBLAS|NCCL|HIP) error\b"),
                ("torch", r"Error\(s\) in loading state_dict for "),
                ("torch", r"The size of tensor a \(\d+\) must match the size of tensor b"),
                ("torch", r"Given groups=\d+, weight of size "),
                (
                    "CUDA",
                    r"(?:.{0,120}\b)?(?:CUDNN|CUBLAS|CUSOLVER|CUSPARSE|CUFFT"
                    r"|NCCL)_STATUS_[A-Z_]{4,40}",
                ),
                ("onnxruntime", r"\[ONNXRuntimeError\] "),
                ("cupy", r"(?:cudaError|CUDA_ERROR_)\w+"),
                (
                    "scikit-learn",
                    r"Input X contains (?:NaN|infinity)|This \w+ instance is not fitted yet",
                ),
            ),
            "medium": (
                (
                    "scipy",
                    r"(?:Optimal parameters not found|Factor is exactly singular"
                    r"|array must not contain infs or NaNs)",
                ),
            ),
        },
        hint=Hint(
            r"Converge|Solver|Simulation|Singular|Infeasible|Numerical",
            r"\b(?:not|no|failed to|did not|didn't|without) converg\w+|\bsingular matrix\b"
            r"|\bnon-?zero (?:exit|return)\w*|\b(?:exit(?:ed)?|return(?:ed)?|finished|failed"
            r"|ended)(?: with)?(?: an?)? (?:\w+ )?(?:code|status)[ :=]{1,3}-?[1-9]\d*\b|\b(?:CUDA"
            r"|cuDNN|cuBLAS|NCCL|GPU|device)\b.{0,40}\berror\b|\binfeasible\b|\bunbounded problem\b"
            r"|\b(?:solver|simulation|optimi[sz]er|model|integration|solution)\b.{0,40}\b(?:failed"
            r"|fails|diverged|crashed|blew up)|\bNaNs? (?:or infinity |or inf )?(?:in|encountered"
            r"|values? in|found|detected|loss)\b|\bloss is nan\b",
        ),
    ),
    Cause(
        "input_validation",
        "Unexpected input",
        "The data or the arguments are not what the code expects.",
        "Look at the input of the tasks named; validate it before the expensive part.",
        types={
            "high": "TagError ManifestError ValidationError SchemaError SchemaErrors "
            "JSONDecodeError UnicodeDecodeError UnicodeEncodeError ParserError "
            "EmptyDataError ParseError XMLSyntaxError OutOfBoundsDatetime "
            "IntCastingNaNError MergeError InvalidIndexError UndefinedVariableError "
            "ArrowInvalid ArrowTypeError ArrowKeyError BadZipFile BadGzipFile "
            "UnidentifiedImageError CRSError ColumnNotFoundError ShapeError AxisError",
            "medium": "AssertionError",
            "low": "ComputeError",
        },
        generic_types={
            "medium": "ValueError KeyError IndexError",
            "low": "LookupError TypeError ZeroDivisionError OverflowError EOFError",
        },
        packages={"medium": "pydantic jsonschema pandera"},
        phrases={
            "medium": (
                ("HTTP", _http("400|422", "Bad Request|Unprocessable")),
                (
                    "h5py",
                    r"Unable to (?:synchronously )?open (?:file"
                    r"|object) \((?:file signature not found|truncated file)",
                ),
            ),
        },
        hint=Hint(
            r"Validation|Invalid|Schema|Pars(?:e|ing)|Decod|Malformed|Corrupt|BadData|DataError"
            r"|Format|Unsupported",
            r"\b(?:invalid|malformed|corrupt(?:ed)?|illegal|ill-formed|unparsable|truncated)\b"
            r"|\bmissing (?:required )?(?:\w+ )?(?:columns?|keys?|fields?|values?|arguments?"
            r"|variables?|data)\b|\bexpected\b.{0,120}\b(?:got|but|found|received|actual|instead)\b"
            r"|\b(?:cannot|can't|could not|couldn't|unable to|failed to) (?:parse|decode|convert"
            r"|read|interpret|understand)\b|\bmust (?:not )?be\b|\bshould be\b|\bnot a valid\b"
            r"|\bout of (?:range|bounds)\b|\bbad (?:header|data|input|value|record|row|line"
            r"|format)\b|\bunexpected (?:\w+ )?(?:value|type|token|character|column|key|end|eof"
            r"|input|format)\b|\bdo(?:es)? not match\b|\bmismatch(?:ed)?\b|\bduplicate[ds]?\b"
            r"|\bnot unique\b|\bunknown (?:column|key|field|variable|option|argument|parameter"
            r"|format|type)\b|\b(?:columns?|keys?|fields?|variables?)\b.{0,60}\b(?:not found"
            r"|missing|do(?:es)? not exist)\b|\bunsupported (?:\w+ )?(?:type|format|dtype|value"
            r"|file)\b|\bempty (?:data|file|input|frame|array|sequence)\b",
        ),
    ),
    Cause(
        "upstream",
        "Failed because another task did",
        "The task never ran: something it depends on had failed.",
        "Look at the task that it blames.",
        phrases={
            "high": (("distributed", r"(?:Lost|lost) dependencies? "),),
        },
    ),
    Cause(
        "unknown",
        "Cause unknown",
        "None of the rules knows this failure.",
        "Read the traceback.",
    ),
)
#: Every cause that a verdict can have, by name.
CAUSES: Final[dict[str, Cause]] = {cause.name: cause for cause in _ROWS}
