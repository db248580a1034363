"""Takes secrets out of texts before they are recorded or sent: one redactor, used once.

Exact values that are known to be secret come first; then five families of patterns, each behind a
test for a substring, so that an ordinary line costs a few microseconds. Every repetition in a
pattern is bounded: the texts are messages of exceptions, and those may be made to hurt.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, cast
from urllib.parse import quote, quote_plus, unquote, urlsplit

#: Stands where a secret stood.
REDACTED: Final = "[redacted]"

#: Shorter values are too likely to be ordinary words or numbers.
MIN_SECRET_LENGTH: Final = 8


class Redactor:
    """Replaces secrets in a text by `[redacted]`; any thread may call it, it keeps no state.

    Parameters
    ----------
    secrets
        Exact values; also found URL-quoted, in base64 and with escapes. Those under 8 characters
        are left out.
    extra_patterns
        Regular expressions to redact as well: their group `secret` if they have one, else all of
        the match.
    off
        Names of families that are not looked for, out of :attr:`families`.

    Raises
    ------
    ValueError
        A name in `off` is none of the families.
    re.error
        An extra pattern is no regular expression.

    Notes
    -----
    It cannot be pickled: the secrets it knows must not travel.
    """

    #: `secrets` (exact values), `url` (passwords in URLs), `header` (authorization, cookies),
    #: `assignment` (password = …), `token` (token=, sig=), `format` (what providers' keys look
    #: like, JWT, private keys), `extra`.
    families: Final[tuple[str, ...]] = (
        "secrets",
        "format",
        "url",
        "header",
        "assignment",
        "token",
        "extra",
    )

    def __init__(
        self,
        *,
        secrets: Iterable[str] = (),
        extra_patterns: Iterable[str | re.Pattern[str]] = (),
        off: Collection[str] = (),
    ) -> None:
        unknown = sorted(set(off) - set(self.families))
        if unknown:
            allowed = ", ".join(self.families)
            raise ValueError(f"unknown families of secrets {unknown}: there are {allowed}")
        values = {value for value in secrets if len(value) >= MIN_SECRET_LENGTH}
        forms = {form for value in values for form in _forms(value)}
        # The longest first: a secret may be part of another.
        self._values = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        self._extra = tuple(re.compile(pattern) for pattern in extra_patterns)
        steps: dict[str, Callable[[str, str], str]] = {
            "secrets": self._exact,
            "format": _formats,
            "url": _urls,
            "header": _headers,
            "assignment": _assignments,
            "token": _tokens,
            "extra": self._extras,
        }
        if not self._values:
            del steps["secrets"]
        if not self._extra:
            del steps["extra"]
        self._steps = tuple(step for name, step in steps.items() if name not in off)

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        dask_config_items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        extra_patterns: Iterable[str | re.Pattern[str]] = (),
        off: Collection[str] = (),
    ) -> Redactor:
        """Make a redactor that knows the values of variables and options whose names say secret.

        Parameters
        ----------
        environ
            Environment variables. Passwords in URLs and headers for OTLP count whatever the
            variable is called.
        dask_config_items
            Options of Dask by name, nested or with dots.
        extra_patterns, off
            As for the class.
        """
        items = [*environ.items(), *_flat(dask_config_items, "")]
        found = {secret for name, value in items for secret in _secrets_of(name, value)}
        return cls(secrets=found, extra_patterns=extra_patterns, off=off)

    def __call__(self, text: str) -> str:
        """Return the text without secrets; the same object if there was none."""
        lowered = text.lower()
        for step in self._steps:
            redacted = step(text, lowered)
            if redacted is not text:
                text, lowered = redacted, redacted.lower()
        return text

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a redactor is not pickled: it knows secrets")

    def _exact(self, text: str, lowered: str) -> str:
        for value in self._values:
            if value in text:
                text = text.replace(value, REDACTED)
        return text

    def _extras(self, text: str, lowered: str) -> str:
        for pattern in self._extra:
            text = _replaced(pattern, _extra_match, text)
        return text


# Exact values

_SECRET_NAME: Final = re.compile(
    r"passw(?:or)?d|passphrase|secret|token|credential|api_?key|(?:access|private|account|auth"
    r"|encryption|signing|shared|service|license)_?key|(?:^|_)auth$|(?:^|_)pass$",
    re.IGNORECASE,
)
#: What a variable like DB_PASSWORD_FILE holds is where a secret is, not the secret.
_LOCATION_NAME: Final = re.compile(
    r"(?:_|^)(?:file|path|dir|sock|socket|name|uri|endpoint|type|ttl|timeout|expiry|id)$",
    re.IGNORECASE,
)
_HEADERS_NAME: Final = re.compile(r"^OTEL_EXPORTER_OTLP_(?:\w+_)?HEADERS$")
#: Settings that stand where a secret could; to redact these words would ruin texts.
_NO_SECRETS: Final = frozenset(
    {
        "anonymous",
        "basicauth",
        "changeme",
        "disabled",
        "external",
        "kerberos",
        "localhost",
        "optional",
        "password",
        "required",
        "undefined",
        "username",
    }
)


def _secrets_of(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        return
    if _HEADERS_NAME.match(name):
        for pair in value.split(","):
            header = unquote(pair.partition("=")[2]).strip()
            yield header
            yield header.rpartition(" ")[2]
        return
    if "://" in value and "@" in value:
        try:
            password = urlsplit(value).password
        except ValueError:
            password = None
        if password:
            yield unquote(password)
    plain = re.sub(r"[.-]", "_", name)
    if (
        _SECRET_NAME.search(plain)
        and not _LOCATION_NAME.search(plain)
        and value.lower() not in _NO_SECRETS
    ):
        yield value.strip()


def _flat(
    items: Mapping[str, Any] | Iterable[tuple[str, Any]], prefix: str
) -> Iterator[tuple[str, Any]]:
    pairs = cast("Mapping[str, Any]", items).items() if isinstance(items, Mapping) else items
    for name, value in pairs:
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _forms(secret: str) -> Iterator[str]:
    """Yield how a secret may stand in a text; in base64 also as a part of what was encoded."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield secret.encode("unicode_escape").decode("ascii")
    yield repr(secret)[1:-1]
    data = secret.encode("utf-8", "surrogatepass")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        # Characters at the ends also hold bits of the neighbours.
        first = (0, 2, 3)[before]
        last = len(encoded.rstrip("=")) - (1 if encoded.endswith("=") else 0)
        core = encoded[first:last]
        if len(core) >= MIN_SECRET_LENGTH:
            yield core
            yield core.replace("+", "-").replace("/", "_")


# Families. Each takes the text and the text in lower case, and returns the same object if there
# is nothing to redact.

#: What stands for a value in templates, documentation, earlier redactions and source code.
_PLACEHOLDER: Final = re.compile(
    r"^(?:\[redacted\]|[*.xX•]+|<.*|\{.*|\$.*|%[(s].*|\.\.\.|none|null|nil|true|false|str|string|bytes"
    r"|int|any|optional|required|undefined|not|self|cls|redacted|hidden|masked|filtered)$",
    re.IGNORECASE | re.DOTALL,
)
_IDENTIFIER: Final = re.compile(r"^[A-Za-z_][\w.]*$")


def _formats(text: str, lowered: str) -> str:
    for hint in _FORMAT_HINTS:
        if hint in text:
            return _replaced(_FORMAT, lambda match: (match.start(), match.end()), text)
    return text


_FORMAT_HINTS: Final = (
    *(
        "AKIA",
        "ASIA",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "sk-",
        "k_live_",
    ),
    *(
        "k_test_",
        "xox",
        "AIza",
        "ya29.",
        "npm_",
        "pypi-",
        "hf_",
        "SG.",
        "_v1_",
        "dapi",
        "hvs.",
        "shp",
    ),
    *("eyJ", "PRIVATE KEY", "AGE-SECRET", "nvapi-", "lsv2_", "r8_", "key-"),
)
_FORMAT: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"
    r"|gh[pousr]_[A-Za-z0-9]{30,255}"
    r"|github_pat_[A-Za-z0-9_]{30,255}"
    r"|glpat-[A-Za-z0-9_-]{20,255}"
    r"|sk-(?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{20,255}"
    r"|[srp]k_(?:live|test)_[A-Za-z0-9]{16,255}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|ya29\.[0-9A-Za-z_-]{20,1024}"
    r"|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{40,1024}"
    r"|hf_[A-Za-z0-9]{30,64}"
    r"|SG\.[\w-]{16,64}\.[\w-]{16,128}"
    r"|do[opr]_v1_[a-f0-9]{64}"
    r"|dapi[0-9a-f]{32}"
    r"|hvs\.[A-Za-z0-9_-]{24,255}"
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"
    r"|nvapi-[A-Za-z0-9_-]{40,255}"
    r"|lsv2_[a-z]{2}_[a-f0-9_]{32,128}"
    r"|wandb_v1_[A-Za-z0-9_]{30,255}"
    r"|r8_[A-Za-z0-9]{36,64}"
    r"|key-[0-9a-f]{32}"
    r"|AGE-SECRET-KEY-1[0-9A-Z]{20,128}"
    r"|eyJ[\w-]{8,4096}\.eyJ[\w-]{4,8192}(?:\.[\w-]{0,4096})?"
    r")"
    r"|-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----)){0,20000}-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:[A-Za-z0-9+/=\s]|\\[nr]){0,20000})"
)


def _urls(text: str, lowered: str) -> str:
    if "@" not in text or "://" not in text:
        return text
    return _replaced(_URL, _url_match, text)


_URL: Final = re.compile(
    r"://(?:(?P<user>[^\s/?#'\"<>@:]{0,256}):(?P<password>[^\s/'\"<>]{1,1024})"
    r"|(?P<token>[^\s/?#'\"<>@:]{16,1024}))@"
)


def _url_match(match: re.Match[str]) -> tuple[int, int] | None:
    name = "password" if match["password"] is not None else "token"
    value = match[name]
    if value.lower() in ("password", "passwd", "pass", "pwd"):
        return None  # documentation; there is nothing to hide
    if _PLACEHOLDER.match(value) or (name == "token" and not _has_digit(value)):
        return None
    return match.span(name)


def _headers(text: str, lowered: str) -> str:
    if (
        "authorization" in lowered
        or "cookie" in lowered
        or "bearer" in lowered
        or "basic " in lowered
        or "x-" in lowered
        or "api-key" in lowered
    ):
        text = _replaced(_HEADER, _header_match, text)
        return _replaced(_SCHEME, _scheme_match, text)
    return text


_HEADER: Final = re.compile(
    r"(?P<name>(?<![A-Za-z])(?:(?:proxy-)?authorization|(?:set-)?cookie|x-(?:[a-z]+-){0,3}(?:key|token|"
    r"secret|signature|auth|password)|api-key))"
    r"\\?['\"]?\]?[ \t]{0,4}(?P<separator>(?::|=>|=(?!=))|,(?=[ \t]{0,4}b?['\"]))[ \t]{0,4}"
    r"(?:[bf]?(?P<quote>\\?['\"])(?P<quoted>(?:(?!(?P=quote))[^\r\n]){1,4096})"
    r"|(?:digest|hmac|aws4-hmac-sha256)[ \t]+(?P<parameters>[^\r\n]{1,4096})"
    r"|(?P<bare>[^\s'\"][^'\"\r\n]{0,4096}))",
    re.IGNORECASE,
)
_SCHEMES: Final = re.compile(
    r"(?:basic|bearer|digest|token|negotiate|apikey|hmac|aws4-hmac-sha256)[ \t]+", re.IGNORECASE
)


def _header_match(match: re.Match[str]) -> tuple[int, int] | None:
    if match["parameters"] is not None:
        return match.span("parameters")
    group = "quoted" if match["quoted"] is not None else "bare"
    value = match[group]
    start, end = match.span(group)
    if "cookie" in match["name"].lower():
        as_code = group == "bare" and match["separator"] != ":"
        nothing = "=" not in value or _PLACEHOLDER.match(value.partition("=")[2])
        return None if as_code or nothing else (start, end)
    scheme = _SCHEMES.match(value)
    if scheme is not None:
        value = value[scheme.end() :]
        start += scheme.end()
    elif match["separator"] == ",":
        return None  # a list of names of headers
    if _PLACEHOLDER.match(value):
        return None
    if group == "bare":
        # Behind the credentials a sentence may go on.
        value = re.split(r"[\s,;)}\]]", value, maxsplit=1)[0]
        as_code = _IDENTIFIER.match(value) and not _has_digit(value) and scheme is None
        if as_code or "(" in value or value.startswith(REDACTED[:-1]):
            return None
        end = start + len(value)
    return (start, end) if len(value) >= (6 if scheme is not None else 8) else None


_SCHEME: Final = re.compile(
    r"\b(?:bearer|basic)[ \t]{1,4}(?P<value>[A-Za-z0-9._~+/-]{12,4096}={0,2})", re.IGNORECASE
)


def _scheme_match(match: re.Match[str]) -> tuple[int, int] | None:
    value = match["value"]
    return match.span("value") if _has_digit(value) or value.endswith("=") else None


def _assignments(text: str, lowered: str) -> str:
    for hint in _ASSIGNMENT_HINTS:
        if hint in lowered:
            text = _replaced(_ASSIGNMENT, _assignment_match, text)
            return _replaced(_SPOKEN, _spoken_match, text)
    return text


_ASSIGNMENT_HINTS: Final = (
    "passw",
    "passphrase",
    "secret",
    "key",
    "pwd",
    "credential",
    "_pass",
    "auth=",
)
_NAMES: Final = (
    r"(?:passw(?:or)?d|passphrase|secret|credentials?|(?<![A-Za-z])pwd|(?<=_)pass|(?<![A-Za-z])auth"
    r"|(?:api|access|private|account|auth|encryption|signing|shared|service|license|master)[_-]?key)"
)
_ASSIGNMENT: Final = re.compile(
    rf"(?P<option>--[\w-]{{0,40}})?(?P<name>{_NAMES}[\w.-]{{0,40}})"
    r"\\?['\"]?[\])]?(?P<separator>[ \t]{0,4}(?::=|=>|==|=|:)[ \t]{0,4}|(?<![:=,])[ \t](?=[^\s]))"
    r"(?:[bf]?(?P<quote>\\?['\"])(?P<quoted>[^'\"\r\n\\]{1,1024})(?=\\?['\"])"
    r"|(?P<bare>[^\s'\",;&<>(){}\[\]|`\\]{1,1024})(?P<after>[(\[.]?))",
    re.IGNORECASE,
)
#: Names that hold a secret's name or place, not the secret.
_LOCATION_SUFFIX: Final = re.compile(
    r"(?:[_.-](?:file|path|dir|name|names|id|ref|uri|type|len|length|policy|field|fields|prompt|input|"
    r"expiry|ttl|version|arn|provider)|keyname|keyid)$",
    re.IGNORECASE,
)


#: `credentials: credentials=…`: the name that counts is the inner one.
_NESTED: Final = re.compile(rf"[\w-]{{0,40}}{_NAMES}[\w-]{{0,40}}[=:]", re.IGNORECASE)


def _assignment_match(match: re.Match[str]) -> tuple[int, int] | None:
    name, separator = match["name"].lower(), match["separator"]
    quoted, bare = match["quoted"], match["bare"]
    value = quoted if quoted is not None else bare
    if separator == "==" or "==" in separator or _LOCATION_SUFFIX.search(name):
        return None
    if _PLACEHOLDER.match(value) or _NESTED.match(value):
        return None
    spaced = not separator.strip()
    if spaced and match["option"] is None:
        return None
    if quoted is not None:
        # `secret="a b c"` may be a sentence about a secret; passwords may have spaces.
        sentence = value.count(" ") >= 3 or value.endswith(":")
        return None if len(value) < 3 or sentence else match.span("quoted")
    if len(value) < 4 or value.startswith(("/", "~")):
        return None
    as_code = bool(_IDENTIFIER.match(value))
    if as_code and (match["after"] or value.lower().endswith(name) or name.endswith(value.lower())):
        return None
    plain = separator == "="
    if not plain and as_code and not _has_digit(value):
        return None  # `password: must be …`, `secret = value_of_it`
    if not plain and as_code and "_" in value:
        return None
    if plain and as_code and ("_" in value or "." in value) and not _has_digit(value):
        return None
    return match.span("bare")


_SPOKEN: Final = re.compile(
    r"(?:password|passphrase)(?: is| was| of| for [\w'\"@.-]{1,64}(?: is)?)?[ \t]{1,2}"
    r"(?P<quote>['\"`])(?P<value>[^\s'\"`]{4,256})(?P=quote)",
    re.IGNORECASE,
)


def _spoken_match(match: re.Match[str]) -> tuple[int, int] | None:
    return None if _PLACEHOLDER.match(match["value"]) else match.span("value")


def _tokens(text: str, lowered: str) -> str:
    if "token" in lowered or "sig" in lowered:
        return _replaced(_TOKEN, _token_match, text)
    return text


_TOKEN: Final = re.compile(
    r"(?:token|(?<![A-Za-z])sig|signature)\\?['\"]?\]?[ \t]{0,2}[=:][ \t]{0,2}(?:[bf]?\\?['\"])?"
    r"(?P<value>[A-Za-z0-9%._~+/:-]{16,4096}={0,2})(?![\w(\[])",
    re.IGNORECASE,
)


def _token_match(match: re.Match[str]) -> tuple[int, int] | None:
    value = match["value"]
    return match.span("value") if _has_digit(value) and not value.startswith("/") else None


def _extra_match(match: re.Match[str]) -> tuple[int, int] | None:
    if "secret" in match.re.groupindex:
        return match.span("secret") if match["secret"] is not None else None
    return match.span()


def _replaced(
    pattern: re.Pattern[str],
    secret_in: Callable[[re.Match[str]], tuple[int, int] | None],
    text: str,
) -> str:
    """Replace the part of each match that is secret; look on behind it."""
    parts: list[str] = []
    done = at = 0
    while (match := pattern.search(text, at)) is not None:
        span = secret_in(match)
        if span is None or span[0] == span[1]:
            # What only looked like a value may hold the next name.
            at = max(match.start() + 1, _next_start(match))
            continue
        if text[span[0] : span[1]] != REDACTED:
            parts += (text[done : span[0]], REDACTED)
            done = span[1]
        at = max(span[1], match.start() + 1)
    if not parts:
        return text
    parts.append(text[done:])
    return "".join(parts)


def _next_start(match: re.Match[str]) -> int:
    """Return where to look on after a match that held no secret: behind its name."""
    return match.end("name") if "name" in match.re.groupindex else match.start() + 1


def _has_digit(value: str) -> bool:
    return any(character.isdigit() for character in value)
