"""Values that are known to be secret: their sources, and their forms in texts."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import quote, quote_plus, unquote

from scalable_runs.redact.names import is_secret_name
from scalable_runs.redact.text import has_digit, words

#: Shorter known values are replaced only as whole words …
MIN_SECRET_LENGTH: Final = 8
#: … and still shorter ones not at all: they are likely to be ordinary words or numbers.
MIN_WORD_LENGTH: Final = 5

_KEY_NAME: Final = re.compile(r"(?:^|_)(?:key|pat)$", re.IGNORECASE)
_HEADERS_NAME: Final = re.compile(r"^OTEL_EXPORTER_OTLP_(?:\w+_)?HEADERS$")
#: Common values of settings that could hold a secret, and common words: to redact them would ruin
#: texts.
_NO_SECRETS: Final = words(
    """
    admin administrator airflow always anonymous apikey approle auth auto azure basic basicauth
    bearer bytes changeme changeit client cluster cookie count credential credentials dask data
    database default demo delete deny digest disable disabled distributed docker driver dummy
    email empty enable enabled error example explicit external false fetch files float github
    gitlab google graph guest header headers hello hidden host http https input integer internal
    jenkins kerberos key keyring ldap length letmein local localhost login manager master memory
    method model module mysql name native never nobody none null number oauth object optional
    oracle output owner pandas passwd password passphrase path plain postgres postgresql prefer
    private process production prompt public python python3 query queue range redis remote
    required result return root runner samples scalable scheduler secret secrets server service
    session shared simple site slurm source staging standard start state status stdin store string
    submit system table tasks test tester testing tests token tokens total trust ubuntu undefined
    unknown update user username users value values vault version warning worker workers world
    write
    """
)
_PATH: Final = re.compile(
    r"(?:~|\.{1,2})?/(?:[\w.@-]+/)+[\w@-]*\.\w{1,8}"
    r"|(?:~|/(?:home|usr|var|etc|run|opt|tmp|mnt|data|root|srv|app|secrets|Users))(?:/[\w.@-]+)+/?"
)


def is_worth_hiding(value: str) -> bool:
    """Return whether to hide a value that is known to be secret in every text."""
    lowered = value.lower()
    if len(value) < MIN_WORD_LENGTH or lowered in _NO_SECRETS:
        return False
    if len(value) >= MIN_SECRET_LENGTH:
        return not set(lowered) <= set("*.x-_ ")
    # Not a number, a date, a version, a name of Python's or of this machine.
    letters = sum(character.isalpha() for character in value)
    return letters >= 2 and lowered not in _known_words() and len(set(value)) > 2


def _known_words() -> set[str]:
    host = os.uname().nodename if hasattr(os, "uname") else ""
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    return {*map(str.lower, sys.stdlib_module_names), *host.lower().split("."), user.lower()}


def secrets_of(name: str, value: Any, find: Callable[[str], list[str]]) -> Iterator[str]:
    """Yield the secrets in a variable or option; `find` returns those that patterns find."""
    if not isinstance(value, str):
        return
    if _HEADERS_NAME.match(name):
        for pair in value.split(","):
            header = unquote(pair.partition("=")[2]).strip()
            yield header
            yield header.rpartition(" ")[2]
        return
    found = find(value)
    for secret in found:
        yield secret
        yield unquote(secret)
    value = value.strip()
    if _is_location(value):
        return
    is_secret = is_secret_name(name) and not (found and "://" in value)
    is_key = _KEY_NAME.search(re.sub(r"[.-]", "_", name)) is not None and len(value) >= 16
    if is_secret or (is_key and _is_random(value)):
        yield value


def _is_location(value: str) -> bool:
    if _PATH.fullmatch(value) is not None:
        return True
    return value.startswith(("/", "~/", "./")) and os.path.exists(os.path.expanduser(value))  # noqa: PTH110, PTH111


def _is_random(value: str) -> bool:
    """Return whether letters and digits are mixed as in no word or path."""
    return has_digit(value) and any(map(str.isalpha, value)) and not re.search(r"[\s/\\]", value)


def named_values(
    items: Mapping[str, Any] | Iterable[tuple[str, Any]], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield all values with their names in full, `a.b.0` for nested ones."""
    pairs = cast("Mapping[str, Any]", items).items() if isinstance(items, Mapping) else items
    for name, value in pairs:
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found = cast("Mapping[str, Any]", value)
            if key := name_in_pair(found):
                yield key, found.get("value")
            yield from named_values(found, f"{full}.")
        elif isinstance(value, list | tuple):
            parts = cast("list[Any]", value)
            yield from named_values([(str(n), part) for n, part in enumerate(parts)], f"{full}.")
            yield from ((full, part) for part in parts if isinstance(part, str))
        else:
            yield full, str(value) if isinstance(value, int | float) else value


def name_in_pair(mapping: Mapping[Any, Any]) -> str:
    """Return the name in {"name": "DB_PASSWORD", "value": "…"}, a form that Kubernetes uses."""
    if "value" not in mapping:
        return ""
    name = mapping.get("name") or mapping.get("key") or mapping.get("Name") or ""
    return name if isinstance(name, str) else ""


def forms(secret: str) -> Iterator[str]:
    """Yield the forms of a secret in texts; in base64 also as a part of what was encoded."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield html.escape(secret)
    yield secret.encode("unicode_escape").decode("ascii")
    yield repr(secret)[1:-1]
    escaped = secret
    for _ in range(3):
        escaped = json.dumps(escaped, ensure_ascii=False)[1:-1]
        yield escaped
    data = secret.encode("utf-8", "surrogatepass")
    yield data.hex()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        # Characters at the ends also hold bits of what surrounds the secret.
        first = (0, 2, 3)[before]
        last = len(encoded.rstrip("=")) - (1 if encoded.endswith("=") else 0)
        core = encoded[first:last]
        if len(core) >= MIN_SECRET_LENGTH:
            yield core
            yield core.replace("+", "-").replace("/", "_")
