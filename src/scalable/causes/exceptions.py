"""Judges an exception by the catalog: the sign that is hardest to misread decides.

In this order: the error number, the type and its bases, a library's phrase at the beginning of the
message, the frames of the traceback, then the same signs of the exceptions that it was raised
from. Only if none of these decides, words of the message or of the class's own name may hint at a
cause: such a verdict has low confidence.
"""

from __future__ import annotations

import builtins
import errno as system_errno
import re
from functools import lru_cache
from typing import Final, NamedTuple

from scalable.causes.catalog import (
    ERRNOS,
    GENERIC_TYPES,
    HINTS,
    PACKAGES,
    PHRASES,
    TYPES,
    Confidence,
    Sign,
)
from scalable.causes.model import Case, Verdict


def judge_exception(case: Case) -> Verdict:
    """Judge a failure by its exception and those that it was raised from."""
    first, *causes = _chain(case)
    for judge in (_by_errno, _by_type, _by_phrase, _by_frames):
        verdict = judge(first)
        if verdict is not None:
            return verdict
    for cause in causes:
        for judge in (_by_errno, _by_type, _by_phrase):
            verdict = judge(cause)
            if verdict is not None:
                confidence: Confidence = "medium" if verdict.confidence == "high" else "low"
                evidence = (f"raised from {cause.name}", *verdict.evidence)
                return Verdict(verdict.cause, confidence, evidence)
    hint, generic = _by_hint(first), _by_generic_type(first)
    if hint is not None and (generic is None or generic.cause != hint.cause):
        return hint
    return generic or Verdict("unknown", "low", (f"no rule knows {first.name}",))


# -- the chain of exceptions -----------------------------------------------------------------------


class _Exception(NamedTuple):
    """One exception of a chain, as the traceback shows it."""

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


_BETWEEN: Final = re.compile(
    "(?:The above exception was the direct cause of the following exception:"
    "|During handling of the above exception, another exception occurred:)"
)
#: The line of a traceback that names the exception.
LAST_LINE: Final = re.compile(r"^([A-Za-z_][\w.<>]*)(?::[ ]?(.*)|)$")
_FRAME: Final = re.compile(r'^\s+File "([^"\n]+)", line \d+', re.MULTILINE)
#: Python begins the text of an OSError with its number.
_ERRNO: Final = re.compile(r"\[Errno (\d{1,3})\] ")
_MAX_CHAIN: Final = 8


def _chain(case: Case) -> list[_Exception]:
    """Return the exception itself, then those that it was raised from, nearest first."""
    *earlier, part = _BETWEEN.split(case.traceback)
    bare = case.failure_class.rpartition(".")[2]
    last = _raised(part, bare)
    errno = _errno_of(case.message) if case.errno is None else case.errno
    chain = [
        _Exception(
            case.failure_class if last is None else last.name,
            case.message,
            case.bases or _builtin_bases(bare),
            errno,
            () if last is None else last.frames,
        )
    ]
    raised = (_raised(part) for part in reversed(earlier[-_MAX_CHAIN:]))
    return chain + [exception for exception in raised if exception is not None]


def _raised(part: str, bare_name: str | None = None) -> _Exception | None:
    """Return the exception that one part of a traceback ends in.

    A line of its message may look like the one that names the class; `bare_name` decides.
    """
    lines = part.splitlines()
    for position in range(len(lines) - 1, -1, -1):
        line = lines[position]
        match = None if line[:1] == " " else LAST_LINE.match(line)
        if match is None or line.startswith("Traceback "):
            continue
        name = match[1]
        bare = name.rpartition(".")[2]
        if bare == bare_name or (bare_name is None and (bare[:1].isupper() or "." in name)):
            message = "\n".join([match[2] or "", *lines[position + 1 :]]).strip()
            frames = tuple(_FRAME.findall(part))
            return _Exception(name, message, _builtin_bases(bare), _errno_of(message), frames)
    return None


def _builtin_bases(name: str) -> tuple[str, ...]:
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return tuple(base.__name__ for base in found.__mro__[1:-2])
    return ()


def _errno_of(message: str) -> int | None:
    match = _ERRNO.search(message[:300])
    return int(match[1]) if match else None


# -- error numbers and types -----------------------------------------------------------------------


_OS_ERRORS: Final = frozenset({"OSError", "IOError", "EnvironmentError", "error"})

#: Classes whose message says more than they do: its phrase decides before the class.
_MESSAGE_FIRST: Final = frozenset(
    {
        *("ImportError", "ModuleNotFoundError", "CalledProcessError", "ClientError", "HTTPError"),
        *("HTTPStatusError", "ClientResponseError", "HttpResponseError", "HttpError", "ApiError"),
        *("APIStatusError", "OperationalError", "DatabaseError", "ProgrammingError", "OSError"),
        *("InternalError", "SystemError", "ArrowInvalid", "AssertionError", "ValueError"),
        *("TypeError", "AttributeError", "HDF5Error", "SSLError", "SSLCertVerificationError"),
        *("MaxRetryError", "ConnectionError", "XlaRuntimeError", "JaxRuntimeError"),
        *("XGBoostError", "LightGBMError", "CUDARuntimeError", "CudaAPIError", "CUDADriverError"),
        "AcceleratorError",
    }
)


def _by_errno(exception: _Exception) -> Verdict | None:
    number = exception.errno
    is_oserror = (
        exception.bare in _OS_ERRORS
        or not _OS_ERRORS.isdisjoint(exception.bases)
        or exception.message.startswith("[Errno ")
    )
    if number is None or not is_oserror:
        return None
    name = system_errno.errorcode.get(number, "")
    return _verdict(ERRNOS.get(name), f"error number {number} ({name})")


def _by_type(exception: _Exception) -> Verdict | None:
    if exception.bare in _MESSAGE_FIRST and (verdict := _by_phrase(exception)) is not None:
        return verdict
    for name in (exception.name, *exception.bases):
        found = _type_sign(name)
        if found is not None:
            inherited = name != exception.name
            which = f"{exception.name}, which is a {name}" if inherited else name
            return _verdict(found, f"exception class {which}")
    return None


def _by_generic_type(exception: _Exception) -> Verdict | None:
    for name in (exception.bare, *exception.bases):
        found = GENERIC_TYPES.get(name.rpartition(".")[2])
        if found is not None:
            return _verdict(found, f"exception class {name}")
    return None


def _type_sign(name: str) -> Sign | None:
    return TYPES.get(name) or TYPES.get(name.rpartition(".")[2])


def _verdict(sign: Sign | None, evidence: str) -> Verdict | None:
    return None if sign is None else Verdict(*sign, (evidence,))


# -- frames ----------------------------------------------------------------------------------------

_PACKAGE: Final = re.compile(r"(?:site|dist)-packages[/\\]([A-Za-z_]\w*)")
_STANDARD_PICKLE: Final = re.compile(
    r"lib[/\\]python3[^/\\]*[/\\]pickle\.py$|[/\\]distributed[/\\]protocol[/\\]\w+\.py$"
)
#: A library was called, or asked for a name, in a way that only another version of it knows.
_REFUSED: Final = re.compile(
    r"(?:[\w.<>]{1,120}\(\) )?(?:got an unexpected keyword argument|takes \d+ positional argument"
    r"|missing \d+ required (?:positional|keyword))|'\w+' is an invalid keyword argument"
    r"|module '[\w.]+' has no attribute "
)


def _by_frames(exception: _Exception) -> Verdict | None:
    if not exception.frames:
        return None
    innermost = exception.frames[-1]
    match = _PACKAGE.search(innermost)
    package = match[1] if match else ""
    if package and _REFUSED.match(exception.message):
        evidence = f"{package} uses what the version that is there does not have"
        return Verdict("version_mismatch", "medium", (evidence,))
    if _STANDARD_PICKLE.search(innermost):
        return Verdict("serialization", "medium", ("raised in pickle",))
    return _verdict(PACKAGES.get(package), f"raised inside {package}")


# -- phrases ---------------------------------------------------------------------------------------


_PHRASES: Final = tuple(
    (sign, source, re.compile(pattern, re.DOTALL)) for sign, source, pattern in PHRASES
)
#: All of them at once: most messages match none, which one match then shows.
_ANY_PHRASE: Final = re.compile("|".join(f"(?:{pattern})" for *_, pattern in PHRASES), re.DOTALL)
#: Characters of a message that are compared.
_MAX_PHRASE: Final = 5_000


def _by_phrase(exception: _Exception) -> Verdict | None:
    message = exception.message[:_MAX_PHRASE].lstrip()
    if not message or _ANY_PHRASE.match(message) is None:
        return None
    for sign, source, pattern in _PHRASES:
        match = pattern.match(message)
        if match is not None:
            found = " ".join(match[0].split())[:120]
            return _verdict(sign, f"the message begins “{found}” ({source})")
    return None


# -- hints -----------------------------------------------------------------------------------------

_HINTS: Final = tuple(
    (cause, re.compile(class_name), re.compile(words, re.IGNORECASE))
    for cause, class_name, words in HINTS
)
#: Their message is a name that the code uses.
_NAMES_ONLY: Final = frozenset(
    {"KeyError", "AttributeError", "NameError", "UnboundLocalError", "NotImplementedError"}
)
#: A single quoted word is a value, not what happened.
_QUOTED_WORD: Final = re.compile(r"'[^'\s]{0,200}'|\"[^\"\s]{0,200}\"|`[^`\s]{0,200}`")
#: Turns the words after it into their opposite.
_NEGATED: Final = re.compile(
    r"(?:\bnot|\bno|\bnever|\bwithout|n't)\b[\s:,]*(?:\w+\s+){0,2}$", re.IGNORECASE
)
#: Characters of a message that are searched.
MAX_HINT: Final = 600
#: An exception, or an error number, that another exception's message quotes.
_QUOTED_CLASS: Final = re.compile(r"\b((?:[a-z_]\w{0,40}\.){0,6}[A-Z]\w{2,60})(?=\(|:(?:\s|$))")
_QUOTED_ERRNO: Final = re.compile(r"\b[Ee]rrno[ =:]{1,3}(\d{1,3})\b")


def _by_hint(exception: _Exception) -> Verdict | None:
    if exception.bare in _NAMES_ONLY:
        return None
    text = exception.message
    if len(text) > MAX_HINT:
        # A long text says what happened at its beginning or at its end.
        text = f"{text[: MAX_HINT * 2 // 3]} {text[-MAX_HINT // 3 :]}"
    return judge_words(exception.bare, text)


@lru_cache(maxsize=1_000)  # thousands of failures may have one message
def judge_words(class_name: str, text: str) -> Verdict | None:
    """Judge by words that other failures may have too: confidence is low."""
    for match in _QUOTED_CLASS.finditer(text):
        found = _type_sign(match[1])
        if found is not None:
            return Verdict(found[0], "low", (f"the message names {match[1]}",))
    match = _QUOTED_ERRNO.search(text)
    found = ERRNOS.get(system_errno.errorcode.get(int(match[1]), "")) if match else None
    if match and found is not None:
        return Verdict(found[0], "low", (f"the message says “{match[0]}”",))
    text = _QUOTED_WORD.sub("'…'", text)
    for cause, name, words in _HINTS:
        if name.search(class_name):
            return Verdict(cause, "low", (f"the class is named {class_name}",))
        for match in words.finditer(text):
            if _NEGATED.search(text[max(0, match.start() - 40) : match.start()]) is None:
                found = " ".join(match[0].split())[:80]
                return Verdict(cause, "low", (f"by its own words: “{found}”",))
    return None
