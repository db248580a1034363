"""Takes secrets out of texts before they are recorded or sent: one redactor, used once.

Values that are known to be secret are replaced first. What is left is searched by six families of
patterns. The work is linear in the length of the text: a text is bounded before it is searched, a
pattern never goes twice over what it has passed, and a text with too many possible secrets is
redacted whole.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import json
import os
import re
import secrets as random_source
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias, cast
from urllib.parse import quote, quote_plus, unquote

#: Stands where a secret stood.
REDACTED: Final = "[redacted]"

#: Shorter known values are replaced only where they stand as a word of their own …
MIN_SECRET_LENGTH: Final = 8
#: … and still shorter ones not at all: they are likely to be ordinary words or numbers.
MIN_WORD_LENGTH: Final = 5

#: Characters of a text that are kept: half of them from its beginning, half from its end.
MAX_TEXT: Final = 65_536
#: Characters beyond these that are searched too: a secret across the cut is seen whole.
_OVERLAP: Final = 8_192
#: Places in a text that are looked at closely. A text that has more is redacted whole.
MAX_CANDIDATES: Final = 5_000
#: Results kept of short texts that come again: names, labels, attributes.
_MAX_CACHED: Final = 4_096
_MAX_CACHED_LENGTH: Final = 256
_MAX_DEPTH: Final = 32

#: What Dask calls most tasks: a name, a digest or a number behind it, the place of a part.
_PLAIN_NAME: Final = re.compile(
    r"(?:\(')?([\w.-]{0,80}?)(?:-[0-9a-f]{32}|-?\d{1,12})?(?:'(?:, \d{1,12})*+,?\))?"
)
_WHOLE: Final = "[redacted: a text of "
#: Start and end of a secret.
_Span: TypeAlias = tuple[int, int]


class _TooMuchError(Exception):
    """More places to look at than a text may have."""


class Redactor:
    """Replaces secrets in texts by `[redacted]`; any thread may call it.

    Parameters
    ----------
    secrets
        Exact values; also found URL-quoted, in base64, hexadecimal and with escapes. Values of 5 to
        7 characters are replaced as whole words unless they are common words or numbers; shorter
        ones are left out.
    extra_patterns
        Regular expressions to redact as well: their group `secret` if they have one, else all of
        the match. Nothing bounds their time but the length of a text.
    off
        Names of families that are not looked for, out of :attr:`families`.
    salt
        Makes the digests of :meth:`identity`; random unless given.

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

    #: `secrets` (exact values), `format` (what providers' keys look like, JWT, private keys, base64
    #: of any of these), `url` (passwords in URLs), `header` (authorization, cookies), `assignment`
    #: (password = …, options of commands), `token` (token=, sig=), `extra`.
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
        salt: bytes | None = None,
    ) -> None:
        unknown = sorted(set(off) - set(self.families))
        if unknown:
            allowed = ", ".join(self.families)
            raise ValueError(f"unknown families of secrets {unknown}: there are {allowed}")
        #: The exact values.
        self.secrets: Final = frozenset(filter(_is_worth_hiding, secrets))
        #: Makes the digests of :meth:`identity`.
        self.salt: Final = salt or random_source.token_bytes(16)
        long = {value for value in self.secrets if len(value) >= MIN_SECRET_LENGTH}
        forms = {form for value in long for form in _forms(value)}
        # The longest first: a secret may be part of another.
        self._values = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        words = sorted(self.secrets - long, key=lambda word: (-len(word), word))
        self._words = tuple(words)
        self._word_pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")
        if "secrets" in off:
            self._values = self._words = ()
        self._extra = tuple(re.compile(pattern) for pattern in extra_patterns)
        if "extra" in off:
            self._extra = ()
        self._finders = tuple(find for name, find in _FAMILIES.items() if name not in off)
        self._overlap = max([_OVERLAP, *map(len, self._values)])
        self._cache: dict[str, str] = {}

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        *named: Mapping[str, Any] | Iterable[tuple[str, Any]],
        extra_patterns: Iterable[str | re.Pattern[str]] = (),
        off: Collection[str] = (),
    ) -> Redactor:
        """Make a redactor that knows the values of variables and options whose names say secret.

        Parameters
        ----------
        environ
            Environment variables. Secrets that the patterns find in a value, such as passwords in
            URLs, and headers for OTLP count whatever the variable is called.
        named
            More values by name, nested or with dots: Dask's options, a manifest.
        extra_patterns, off
            As for the class.
        """
        items = list(environ.items())
        for mapping in named:
            items += _flat(mapping, "")
        found = {secret for name, value in items for secret in _secrets_of(name, value)}
        return cls(secrets=found, extra_patterns=extra_patterns, off=off)

    def __call__(self, text: str) -> str:
        """Return the text without secrets; the same object if there was none.

        Of a text over :data:`MAX_TEXT` characters the beginning and the end are left, and a line
        between them says how much is not.
        """
        if len(text) <= MAX_TEXT:
            return self._redacted(text)
        half, overlap = MAX_TEXT // 2, self._overlap
        head = self._redacted(text[: half + overlap])
        tail = self._redacted(text[-half - overlap :])
        head = head if head.startswith(_WHOLE) else head[:-overlap]
        tail = tail if tail.startswith(_WHOLE) else tail[overlap:]
        left_out = len(text) - MAX_TEXT
        return f"{head}\n[… {left_out:,} characters left out …]\n{tail}"

    def identity(self, name: str) -> str:
        """Return the name of something without secrets, still told apart from all others.

        A name that holds a secret gets a digest in its place, which is the same for equal names.
        """
        plain = _PLAIN_NAME.fullmatch(name)
        if plain is not None:
            stem = plain[1]
            known = any(value in name for value in (*self._values, *self._words))
            if not known and self.short(stem) is stem:
                return name
        redacted = self.short(name)
        if redacted is name:
            return name
        digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=6, key=self.salt)
        return f"{redacted}-{digest.hexdigest()}"

    def short(self, text: str) -> str:
        """Return the text without secrets; the results of short texts that come again are kept."""
        if len(text) > _MAX_CACHED_LENGTH:
            return self(text)
        found = self._cache.get(text)
        if found is None:
            found = self(text)
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            # The text itself where there is no secret, so that the caller can tell.
            self._cache[text] = found
        return text if found == text else found

    def value(self, value: Any, name: str = "") -> Any:
        """Return a value of any type without secrets, also within mappings and sequences.

        Parameters
        ----------
        value
            Texts, numbers, mappings, sequences.
        name
            What the value is called: under a name that says secret it is hidden whatever it is.
        """
        return self._value(value, name, 0)

    def attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes without secrets in their names and values."""
        return {self.short(str(name)): self.value(of, str(name)) for name, of in attributes.items()}

    def lines(self, text: str) -> str:
        """Return a text of any length without secrets, nothing left out of it.

        It is searched in pieces of whole lines.
        """
        parts: list[str] = []
        at = 0
        while at < len(text):
            end = at + MAX_TEXT
            if end < len(text):
                # A private key is not cut in two, where its end is near.
                begun = text.rfind("-----BEGIN ", at + MAX_TEXT // 2, end)
                if begun > 0 and text.find("-----END ", begun, end) < 0:
                    end = begun
                else:
                    end = text.rfind("\n", at, end) + 1 or text.rfind(" ", at, end) + 1 or end
            parts.append(self(text[at:end]))
            at = end
        return "".join(parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a redactor is not pickled: it knows secrets")

    def _redacted(self, text: str) -> str:
        for value in self._values:
            if value in text:
                text = text.replace(value, REDACTED)
        if self._words and any(word in text for word in self._words):
            text = self._word_pattern.sub(REDACTED, text)
        lowered = _lowered(text)
        spans: list[_Span] = []
        try:
            for find in self._finders:
                spans += find(text, lowered)
        except _TooMuchError:
            return f"{_WHOLE}{len(text):,} characters with too many possible secrets]"
        for pattern in self._extra:
            group = "secret" if "secret" in pattern.groupindex else 0
            spans += [match.span(group) for match in pattern.finditer(text)]
        return _without(text, spans) if spans else text

    def _value(self, value: Any, name: str, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if name and isinstance(value, str | bytes | int | float) and self._hides(name, value):
            return REDACTED
        if isinstance(value, str):
            return self.short(value)
        if depth > _MAX_DEPTH:
            return REDACTED
        if isinstance(value, Mapping):
            found = cast("Mapping[Any, Any]", value)
            pair = _as_pair(found)
            return {
                self.short(key) if isinstance(key, str) else key: self._value(
                    of, pair if key == "value" else str(key), depth + 1
                )
                for key, of in found.items()
            }
        if isinstance(value, list | tuple):
            parts = cast("list[Any] | tuple[Any, ...]", value)
            made = [self._value(part, name, depth + 1) for part in parts]
            return tuple(made) if isinstance(value, tuple) else made
        return value

    def _hides(self, name: str, value: str | bytes | float) -> bool:
        if _assignments not in self._finders or not says_secret(name):
            return False
        if isinstance(value, str):
            return bool(value) and value != REDACTED
        # A number of tokens, of passes or of a session's is none.
        return isinstance(value, bytes) or _SECRET_NUMBER.search(name) is not None


def says_secret(name: str) -> bool:
    """Whether what is called so is a secret: `db.password`, `MYSQL_PWD`, `apiKey`."""
    return len(name) <= _MAX_CACHED_LENGTH and _says_secret(name)


@lru_cache(maxsize=_MAX_CACHED)
def _says_secret(name: str) -> bool:
    plain = _WORD_BREAK.sub("_", name).replace("-", "_").replace(".", "_")
    return bool(
        _SECRET_NAME.search(plain)
        and not _LOCATION_NAME.search(plain)
        and plain not in ("PWD", "OLDPWD")
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Exact values

_WORD_BREAK: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SECRET_NAME: Final = re.compile(
    r"passw(?:or)?d|passphrase|passcode|secret|token(?!i|s$|_count|s_)|credential|authorization"
    r"|(?:^|_)cookies?(?:_|$)|(?:api|access|private|account|auth|encryption|signing|shared|service"
    r"|license|master|storage|fernet|secret|session|subscription|webhook|admin)_?key"
    r"|(?:^|_)(?:auth|pass|pw|pwd|jwt|sas|otp|pin)$"
    r"|(?:^|_)(?:pass|pwd|pw)(?:_|$)|[a-z]pwd$|(?<![a-z])pass$",
    re.IGNORECASE,
)
_SECRET_NUMBER: Final = re.compile(r"passw|passcode|secret|pwd|(?:otp|pin)$", re.IGNORECASE)
#: What a variable like DB_PASSWORD_FILE holds is where a secret is, not the secret.
_LOCATION_NAME: Final = re.compile(
    r"(?:_|^)(?:file|path|dir|sock|socket|name|uri|endpoint|type|ttl|timeout|expiry|expires|id|len"
    r"|length|policy|enabled|required|mode|method|algorithm|version|field|count|limit|provider)$",
    re.IGNORECASE,
)
_KEY_NAME: Final = re.compile(r"(?:^|_)(?:key|pat)$", re.IGNORECASE)
_HEADERS_NAME: Final = re.compile(r"^OTEL_EXPORTER_OTLP_(?:\w+_)?HEADERS$")
#: Settings that stand where a secret could, and words that stand everywhere: to redact them would
#: ruin texts.
_NO_SECRETS: Final = _words(
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


def _is_worth_hiding(value: str) -> bool:
    """Whether to hide a value that is known to be secret wherever it stands."""
    lowered = value.lower()
    if len(value) < MIN_WORD_LENGTH or lowered in _NO_SECRETS:
        return False
    if len(value) >= MIN_SECRET_LENGTH:
        return not set(lowered) <= set("*.x-_ ")
    # A number, a name of Python's or of this machine, a date, a version.
    letters = sum(character.isalpha() for character in value)
    return letters >= 2 and lowered not in _known_words() and len(set(value)) > 2


def _known_words() -> set[str]:
    host = os.uname().nodename if hasattr(os, "uname") else ""
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    return {*map(str.lower, sys.stdlib_module_names), *host.lower().split("."), user.lower()}


def _secrets_of(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        return
    if _HEADERS_NAME.match(name):
        for pair in value.split(","):
            header = unquote(pair.partition("=")[2]).strip()
            yield header
            yield header.rpartition(" ")[2]
        return
    bounded = value[:MAX_TEXT]
    try:
        found = [bounded[start:end] for start, end in _spans(bounded, _lowered(bounded))]
    except _TooMuchError:
        found = []
    for secret in found:
        yield secret
        yield unquote(secret)
    plain = re.sub(r"[.-]", "_", name)
    value = value.strip()
    if _is_location(value):
        return
    whole = says_secret(name) and not (found and "://" in value)
    if whole or (_KEY_NAME.search(plain) and len(value) >= 16 and _is_random(value)):
        yield value


_PATH: Final = re.compile(
    r"(?:~|\.{1,2})?/(?:[\w.@-]+/)+[\w@-]*\.\w{1,8}"
    r"|(?:~|/(?:home|usr|var|etc|run|opt|tmp|mnt|data|root|srv|app|secrets|Users))(?:/[\w.@-]+)+/?"
)


def _is_location(value: str) -> bool:
    if _PATH.fullmatch(value) is not None:
        return True
    return value.startswith(("/", "~/", "./")) and os.path.exists(os.path.expanduser(value))  # noqa: PTH110, PTH111


def _flat(
    items: Mapping[str, Any] | Iterable[tuple[str, Any]], prefix: str
) -> Iterator[tuple[str, Any]]:
    pairs = cast("Mapping[str, Any]", items).items() if isinstance(items, Mapping) else items
    for name, value in pairs:
        whole = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found = cast("Mapping[str, Any]", value)
            if pair := _as_pair(found):
                yield pair, found.get("value")
            yield from _flat(found, f"{whole}.")
        elif isinstance(value, list | tuple):
            parts = cast("list[Any]", value)
            yield from _flat(
                [(str(number), part) for number, part in enumerate(parts)], f"{whole}."
            )
            yield from ((whole, part) for part in parts if isinstance(part, str))
        else:
            yield whole, str(value) if isinstance(value, int | float) else value


def _as_pair(mapping: Mapping[Any, Any]) -> str:
    """The name in {"name": "DB_PASSWORD", "value": "…"}, as Kubernetes and others have it."""
    if "value" not in mapping:
        return ""
    name = mapping.get("name") or mapping.get("key") or mapping.get("Name") or ""
    return name if isinstance(name, str) else ""


def _forms(secret: str) -> Iterator[str]:
    """Yield how a secret may stand in a text; in base64 also as a part of what was encoded."""
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
        # Characters at the ends also hold bits of the neighbours.
        first = (0, 2, 3)[before]
        last = len(encoded.rstrip("=")) - (1 if encoded.endswith("=") else 0)
        core = encoded[first:last]
        if len(core) >= MIN_SECRET_LENGTH:
            yield core
            yield core.replace("+", "-").replace("/", "_")


# What the families have in common. Each takes the text and the text in lower case, of the same
# length, and returns where secrets stand.

_DIGIT: Final = re.compile(r"[0-9]")
#: What a key has and a long name seldom.
_MIXED: Final = re.compile(r"[0-9]|[a-z][A-Z][a-z]{0,2}[A-Z]|[A-Z]{3}[a-z]{3}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][\w.]*")
#: A quotation mark as it stands in a text, in the repr of a text, in JSON within JSON, in HTML or
#: in a URL.
_QUOTE: Final = r"(?:\\{0,15}['\"`]|%22|%27|&quot;|&#3[49];|&apos;|\\{1,8}u002[27])"

#: What stands for a value in templates, documentation, earlier redactions and source code.
_PLACEHOLDER: Final = re.compile(
    r"\[redacted.*|\[.*\]|[*.xX•#_?-]+|<.*|\{.*|\$[({A-Za-z_].*|%[(s{].*|%[A-Za-z_]+%|%[sdr]|none"
    r"|null|nil|true"
    r"|false|yes|no|on|off|str|string|bytes|int|any|object|bool|optional|required|undefined|unset"
    r"|empty|not"
    r"|self|cls|redacted|hidden|masked|filtered|changeme|your[-_ ]?\w*|my[-_ ]?(?:secret|password"
    r"|token|key)"
    r"|secret|password|passwd|passphrase|pwd|pass|token|username|user|value|default|example|invalid"
    r"|incorrect|wrong|missing|expired|basic|bearer|unknown|external|anonymous",
    re.IGNORECASE | re.DOTALL,
)
#: Words of a sentence about a secret, where the secret would stand.
_PROSE: Final = _words(
    """
    about after again already also and are argument arguments because been before both but
    callback can cannot check code contains could data describes does during each entry etc
    expected field file files flag for found from function given handling has have here hook how
    if incorrect instead into invalid iterator just length like list longer made manager match may
    method mismatch missing must name named names needed never new not number object of old only
    option options or other parameter parsing prompt protected provided rejected returns same see
    set should size some that the their then there this to type types unless used using uses
    validation valid value values was what when where which while will with without would wrong
    yet you your
    """
)


def _lowered(text: str) -> str:
    lowered = text.lower()
    # One character alone becomes longer.
    return lowered if len(lowered) == len(text) else text.replace("İ", "I").lower()


def _without(text: str, spans: Iterable[_Span]) -> str:
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start >= done and start < end:
            if text[start:end] == REDACTED:
                continue
            parts += (text[done:start], REDACTED)
            done = end
        elif end > done > start:
            done = end
    if not parts:
        return text
    parts.append(text[done:])
    return "".join(parts)


def _has_digit(value: str) -> bool:
    return _DIGIT.search(value) is not None


def _is_random(value: str) -> bool:
    """Letters and digits mixed, as nobody would write them."""
    return _has_digit(value) and any(map(str.isalpha, value)) and not re.search(r"[\s/\\]", value)


# Formats of providers

#: What a key is made of; a text without such a run has none.
_RUN: Final = re.compile(r"[A-Za-z0-9_.~+/=:$%-]{18,}+")
_KEY_FORMAT: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    # Clouds
    r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Z])"
    r"|(?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[A-Za-z0-9+/=%]{20,}+"
    r"|ABSK[A-Za-z0-9+/]{40,}+=*"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|ya29\.[0-9A-Za-z_.-]{20,}+"
    r"|GOCSPX-[\w-]{20,}+"
    r"|1//0[\w-]{20,}+"
    r"|[A-Za-z0-9+/]{86}==(?![A-Za-z0-9+/=])"
    r"|LTAI[A-Za-z0-9]{12,}+"
    r"|AKID[A-Za-z0-9]{13,}+"
    r"|do[opr]_v1_[a-f0-9]{40,}+"
    r"|(?:AQVN|YC)[A-Za-z0-9_-]{35,38}(?![\w-])"
    r"|t1\.[A-Z0-9a-z_-]+[=]{0,2}\.[A-Z0-9a-z_-]{86}"
    r"|SWMTKN-1-[a-z0-9-]{40,}+"
    r"|sha256~[\w-]{40,}+"
    r"|(?:HRKU|rnd|nfp|vcp|napi|pscale_(?:tkn|pw|oauth)|sbp|sb_secret|fo1|fm[12][ar]?|cfut|cfat"
    r"|hcp)"
    r"[_-](?=[\w=.,+/-]{0,40}[0-9])[\w=.,+/-]{20,}+"
    r"|v1\.0-[a-f0-9]{24}-[a-f0-9]{100,}+"
    r"|[\w]{14}\.atlasv1\.[\w-]{40,}+"
    r"|pul-[a-f0-9]{40}"
    # Code, packages, deliveries
    r"|gh[pousr]_[A-Za-z0-9]{20,}+"
    r"|github_pat_\w{22,}+"
    r"|gl(?:pat|dt|rt|rtr|cbt|ptt|ft|soat|imt|agent|oas|wt|ffct)-[\w.-]{16,}+"
    r"|GR1348941[\w-]{20,}+"
    r"|npm_[A-Za-z0-9]{36,}+"
    r"|pypi-[\w-]{40,}+"
    r"|rubygems_[a-f0-9]{40,}+"
    r"|oy2[a-z0-9]{43}(?![a-z0-9])"
    r"|CLOJARS_[a-z0-9]{50,}+"
    r"|dckr_[op]at_[\w-]{20,}+"
    r"|AKCp[A-Za-z0-9]{50,}+"
    r"|cmVmdGtuO[A-Za-z0-9]{40,}+"
    r"|(?:ATATT3xFfGF0|ATCTT3xFfGN0|ATBB|ATOA|BBDC-)[\w=+/-]{20,}+"
    r"|bk(?:ua|aj|ct)_[a-z0-9]{30,}+"
    r"|CCIP(?:AT|RJ)_[\w]{30,}+"
    r"|sgp_[\w]{30,}+"
    r"|sq[apu]_[a-f0-9]{40}"
    r"|snyk_\w{20,}+"
    r"|PMAK-[a-f0-9]{24}-[a-f0-9]{30,}+"
    # Secret stores
    r"|hv[sbr]\.[\w-]{20,}+"
    r"|dp\.(?:pt|st|ct|sa|said|scim|audit)\.[\w.-]{20,}+"
    r"|AGE-SECRET-KEY-1[0-9A-Z]{20,}+"
    r"|ops_eyJ[\w-]{40,}+"
    r"|A3-[A-Z0-9]{6}-(?:[A-Z0-9]{5,11}-?){3,6}"
    r"|\$(?:1|2[abxy]|5|6|y|gy|apr1|argon2(?:id|i|d)|scrypt|pbkdf2[\w-]*)\$[\w./$=,+-]{20,}+"
    r"|tskey-[a-z]{2,12}-[\w-]{16,}+"
    # Models and data
    r"|sk-(?=[A-Za-z_-]{0,60}[0-9])[\w-]{20,}+"
    r"|(?:pk-lf|sk_or)-[\w-]{20,}+"
    r"|(?:pplx-|gsk_|xai-|nvapi-|pcsk_|tgp_v1_|fw_|jina_|csk-|voyage-"
    r"|pa-)(?=[A-Za-z_-]{0,60}[0-9])[\w-]{24,}+"
    r"|hf_[A-Za-z0-9]{30,}+"
    r"|api_org_[A-Za-z0-9]{30,}+"
    r"|lsv2_[a-z]{2}_\w{30,}+"
    r"|wandb_v1_\w{30,}+"
    r"|r8_[A-Za-z0-9]{30,}+"
    r"|KGAT_\w{20,}+"
    r"|da?pi[0-9a-f]{32}(?:-\d+)?(?![0-9a-z])"
    r"|dbt[csu]_[\w=+/-]{30,}+"
    r"|pn[ub]_[A-Za-z0-9]{30,}+"
    r"|mdb_sa_(?:sk|id)_\w{20,}+"
    r"|4b1d[A-Za-z0-9]{38}(?![A-Za-z0-9])"
    # Watching
    r"|gl(?:c|sa)_[\w=+/-]{28,}+"
    r"|NR(?:AK|JS|II|RA|IQ|AL)-[\w-]{16,}+"
    r"|sntry[su]_[\w=+/-]{30,}+"
    r"|hc[abx]ik_\w{20,}+"
    r"|dt0[a-z]\d\d\.[A-Z0-9]{20,28}\.[A-Z0-9]{40,}+"
    r"|pat(?:[A-Za-z0-9]{14}\.[a-f0-9]{64}|-(?:na|eu|ap)\d-[a-f0-9-]{30,}+)"
    # Messages, payments, shops
    r"|xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}+"
    r"|xapp-\d-[A-Za-z0-9-]{20,}+"
    r"|[srp]k_(?:live|test)_[A-Za-z0-9]{10,}+"
    r"|whsec_[A-Za-z0-9+/=_-]{20,}+"
    r"|sk_[a-f0-9]{40,}+"
    r"|[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}+"
    r"|\d{8,10}:AA[\w-]{30,}+"
    r"|SG\.[\w-]{16,}+\.[\w-]{16,}+"
    r"|SK[0-9a-f]{32}(?![0-9a-z])"
    r"|key-[0-9a-f]{32}"
    r"|[0-9a-f]{32}-us\d{1,2}(?!\w)"
    r"|[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}(?![\w-])"
    r"|x(?:keysib|smtpsib)-[a-f0-9]{40,}+(?:-\w+)?"
    r"|re_[A-Za-z0-9]{6,12}_[A-Za-z0-9]{16,}+"
    r"|shp(?:at|ca|pa|ss|tka)_[a-fA-F0-9]{32}"
    r"|sq0[a-z]{3}-[\w-]{20,}+"
    r"|EAA[A-Za-z0-9]{30,}+"
    r"|access-(?:sandbox|development|production)-[0-9a-f-]{30,}+"
    r"|access_token\$(?:production|sandbox)\$\w{10,}+\$\w{20,}+"
    r"|FLW(?:SECK|PUBK)(?:_TEST)?-[\w-]{10,}+"
    r"|A{20}[A-Za-z0-9%]{60,}+"
    r"|secret_[A-Za-z0-9]{43}(?!\w)"
    r"|ntn_[A-Za-z0-9]{40,}+"
    r"|lin_(?:api|oauth)_[A-Za-z0-9]{30,}+"
    r"|figd_[\w-]{30,}+"
    r"|sl\.[\w-]{60,}+"
    r"|(?:EZAK|EZTK)[A-Za-z0-9]{50,}+"
    r"|shippo_(?:live|test)_[a-f0-9]{40}"
    r"|(?:live|test)_[a-f0-9]{35}(?!\w)"
    r"|CFPAT-[\w-]{40,}+"
    r"|rdme_[a-z0-9]{60,}+"
    r"|API-[A-Z0-9]{24,}+"
    # JWT, JWE
    r"|(?<![\w-])eyJ[\w-]{8,}+\.(?:eyJ)?[\w-]{0,}+(?:\.[\w-]*+){1,3}"
    r")"
    r"|(?<=[\w~.-]{3})[78]Q~[\w~.-]{31,}+"
    r"|(?<=/bot)\d{8,10}:AA[\w-]{30,}+"
    r"|(?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/]{20,}+"
    r"|(?<=/api/webhooks/)\d{10,}+/[\w-]{40,}+"
    r"|(?<=webhook\.office\.com/)[\w@/-]{40,}+"
)
_PEM: Final = "PRIVATE KEY"
_PEM_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
#: A key whose end was cut off.
_PEM_BODY: Final = re.compile(
    r"(?:(?:\s|\\+[nr])*+(?:Proc-Type|DEK-Info|Version|Comment|Hash): [^\r\n\\]{1,200})*+"
    r"(?:[A-Za-z0-9+/=\s]|\\+[nr])*+"
)
#: One whose beginning was.
_PEM_LINE: Final = re.compile(r"[A-Za-z0-9+/=_-]{1,80}")
_PUTTY: Final = re.compile(
    r"Private-Lines: \d{1,4}((?:\s|\\+[nr])++(?:[A-Za-z0-9+/=]{20,}+(?:\s|\\+[nr]|$)++)*+)"
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{20,}+={0,2}")
_CONTROL: Final = re.compile(r"[^\t\r\n -~]")
_USER_AND_PASSWORD: Final = re.compile(r"[^\s:/]{1,64}:[^\s:]{4,256}")


def _formats(text: str, lowered: str) -> list[_Span]:
    spans = _private_keys(text) if _PEM in text or "Private-Lines" in text else []
    count = 0
    for run in _RUN.finditer(text):
        start, end = run.span()
        if _MIXED.search(text, start, end) is None:
            continue
        for match in _KEY_FORMAT.finditer(text, start, end):
            # An Azure client secret is told by what stands in its middle.
            before = 3 if text.startswith("Q~", match.start() + 1) else 0
            spans.append((match.start() - before, match.end()))
        for match in _BASE64.finditer(text, start, end):
            count += 1
            if count > MAX_CANDIDATES:
                raise _TooMuchError
            if _encodes_secret(match.group()):
                spans.append(match.span())
    return spans


def _private_keys(text: str) -> list[_Span]:
    spans: list[_Span] = [match.span(1) for match in _PUTTY.finditer(text)]
    ends = [match.span() for match in _PEM_END.finditer(text)]
    ends.reverse()
    at = 0
    for begin in _PEM_BEGIN.finditer(text):
        start = begin.start()
        if start < at:
            continue
        while ends and ends[-1][1] <= start:
            spans.append(_before(text, at, ends.pop()))
        following = text.find("-----BEGIN", begin.end(), begin.end() + 20_000)
        if ends and not 0 <= following < ends[-1][0] and ends[-1][0] - start < 20_000:
            at = ends.pop()[1]
        else:
            body = _PEM_BODY.match(text, begin.end())
            at = body.end() if body is not None else begin.end()
        spans.append((start, at))
    while ends:
        spans.append(_before(text, at, ends.pop()))
    return spans


def _before(text: str, floor: int, end: _Span) -> _Span:
    """The lines of a key before its end, where its beginning is missing."""
    start = end[0]
    while start > floor:
        line = text.rfind("\n", floor, start - 1) + 1 if text[start - 1] == "\n" else start
        line = max(line, floor)
        if line >= start or _PEM_LINE.fullmatch(text[line:start].strip()) is None:
            break
        start = line
    return start, end[1]


def _encodes_secret(run: str) -> bool:
    """Whether base64 holds a text with a secret in it, or a user and a password."""
    data = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        decoded = binascii.a2b_base64(data[: len(data) - (len(data) % 4 == 1)] + "==")
    except binascii.Error:
        return False
    text = decoded.decode("ascii", "replace")
    if "\ufffd" in text or _CONTROL.search(text) is not None:
        return False
    if _USER_AND_PASSWORD.fullmatch(text) is not None:
        return True
    lowered = text.lower()
    return any(find(text, lowered) for find in (_urls, _headers, _assignments, _tokens))


# Passwords in URLs


def _urls(text: str, lowered: str) -> list[_Span]:
    if ("@" not in text or "/" not in text) and "%40" not in text:
        return []
    spans: list[_Span] = []
    starts = [match.end() for match in _SCHEME_END.finditer(lowered)]
    for number, start in enumerate(starts):
        if number > MAX_CANDIDATES:
            raise _TooMuchError
        run = _URL_RUN.match(text, start)
        if run is None:
            continue
        end = run.end()
        if number + 1 < len(starts) and starts[number + 1] < end:
            end = _SCHEME_START.sub("", text[start : starts[number + 1]]).__len__() + start
        span = _userinfo(text, start, end)
        if span is not None:
            spans.append(span)
    spans += [match.span("value") for match in _ORACLE.finditer(text)]
    spans += [match.span("value") for match in _GO_DSN.finditer(text)]
    return spans


_SCHEME_END: Final = re.compile(r"(?<=[a-z0-9+])(?::(?:\\?/){2}|%3a%2f%2f)")
_SCHEME_START: Final = re.compile(r"[A-Za-z0-9+.-]{0,30}(?::(?:\\?/){2}|%3[Aa]%2[Ff]%2[Ff])$")
_URL_RUN: Final = re.compile(r"[^\s\"<>`]{3,1024}")
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[\w.${}-]+)?(?::\d+|%3[Aa]\d+)?(?=$|[/?#,)\]};:'\\&]|%2[Ff])"
)
_ORACLE: Final = re.compile(
    r"(?:jdbc:oracle:(?:thin|oci8?):|(?<!\w)(?:sqlplus|sqlldr|expdp|impdp)[ \t](?:-\w+[ \t]){0,4})"
    r"['\"]?[\w$#.-]{1,64}/(?P<value>[^\s@'\"]{1,256})@",
    re.IGNORECASE,
)
_GO_DSN: Final = re.compile(
    r"(?<![\w/])[\w.-]{1,64}(?<!\w-):(?P<value>[^\s@/:'\"]{1,256})@(?:tcp|unix)\("
)


def _userinfo(text: str, start: int, end: int) -> _Span | None:
    """Where the password stands in what follows `scheme://`."""
    rest = text[start:end]
    encoded = "@" not in rest and "%40" in rest
    at_sign = "%40" if encoded else "@"
    colon = "%3a" if encoded and "%3a" in rest.lower() else ":"
    authority = re.split(r"[/?#]|%2[Ff]", rest, maxsplit=1)[0]
    at = authority.rfind(at_sign)
    first = rest.lower().find(colon)
    if at < 0:
        # A password with a slash in it, unless a port stands there.
        if not 0 <= first < len(authority) or authority[first + 1 :].isdigit() or "'" in authority:
            return None
        at = rest.rfind(at_sign)
        if at < first or _HOST.match(rest, at + len(at_sign)) is None:
            return None
    if at <= 0:
        return None
    if 0 <= first < at:
        value = rest[first + len(colon) : at]
        host = rest[at + len(at_sign) :]
        if _is_documentation(value, host):
            return None
        return start + first + len(colon), start + at
    value = rest[:at]
    if len(value) < 16 or not _has_digit(value) or _PLACEHOLDER.fullmatch(value):
        return None
    return start, start + at


def _is_documentation(password: str, host: str) -> bool:
    if not password or _PLACEHOLDER.fullmatch(password) is not None:
        return True
    return password.isalpha() and re.match(r"example\.(?:com|org|net)\b", host) is not None


# Headers


def _headers(text: str, lowered: str) -> list[_Span]:
    if not (
        "authorization" in lowered
        or "cookie" in lowered
        or "x-" in lowered
        or "bearer" in lowered
        or "basic " in lowered
        or "-token" in lowered
        or "api-key" in lowered
        or "auth " in lowered
    ):
        return []
    spans = _matched(_HEADER, _header_span, text)
    spans += _matched(_SCHEME, _scheme_span, text)
    return spans


_HEADER: Final = re.compile(
    r"(?P<name>(?<![a-z])(?:(?:proxy-)?authorization|(?:set-)?cookie2?"
    r"|x-(?:[a-z]{1,20}-){0,3}(?:key|token|"
    r"secret|signature|auth|password)|(?:ocp-apim-subscription|api|private)-(?:key|token)))"
    rf"{_QUOTE}?\]?[ \t]{{0,4}}(?P<separator>(?::|=>|=(?!=))"
    rf"|,(?=[ \t]{{0,4}}b?{_QUOTE}))[ \t]{{0,4}}"
    rf"(?:[bf]?(?P<quote>{_QUOTE}))?",
    re.IGNORECASE,
)
_TO_LINE_END: Final = re.compile(r"[^\r\n]{0,4096}")
_CONTENT: Final = re.compile(r"(?:[^\r\n'\"\\]++|\\(?![nr'\"\\]))*+")
_WORD: Final = re.compile(r"(?:[^\s,;)}\]'\"\\]++|\\(?![nr'\"\\]))*+")
_AUTH_SCHEME: Final = re.compile(
    r"(?:basic|bearer|digest|token|negotiate|apikey|hmac|aws4-hmac-sha256|sharedkey(?:lite)?"
    r"|splunk|ntlm|key|jwt"
    r"|snowflake|hawk|dpop|api-key|genie_?key|gitlab|ssws|vapid)[ \t]++(?=\S)",
    re.IGNORECASE,
)
_WHOLE_LINE_SCHEMES: Final = ("digest", "hmac", "aws4", "hawk", "vapid")
_SHORT_COOKIE: Final = re.compile(r"(?:sess|sid|auth|token|csrf|jwt|login)", re.IGNORECASE)
_PAIR: Final = re.compile(r"([^=;\s]{1,80})=([^;]*)")
_COOKIE_ATTRIBUTE: Final = (
    "path",
    "domain",
    "expires",
    "max-age",
    "samesite",
    "version",
    "comment",
)


def _header_span(match: re.Match[str]) -> _Span | None:
    text, start = match.string, match.end()
    mark = match["quote"]
    scheme = _AUTH_SCHEME.match(text, start)
    is_cookie = "cookie" in match["name"].lower()
    whole_line = scheme is not None and scheme.group().lower().startswith(_WHOLE_LINE_SCHEMES)
    if mark is not None:
        end = _closing(text, start, mark)
        if end is None:
            line = _TO_LINE_END.match(text, start)
            end = line.end() if line is not None else start
    elif whole_line:
        line = _TO_LINE_END.match(text, start)
        end = line.end() if line is not None else start
    elif is_cookie:
        # Within a text in quotes the header ends with that.
        content = _CONTENT.match(text, start)
        end = content.end() if content is not None else start
    else:
        # Behind the credentials a sentence may go on.
        start = scheme.end() if scheme is not None else start
        word = _WORD.match(text, start, start + _LOOK)
        end = word.end() if word is not None else start
    value = text[start:end]
    if is_cookie:
        as_code = mark is None and match["separator"] != ":"
        return (end, end) if as_code or not _is_cookie(value) else (start, end)
    if scheme is not None and scheme.end() <= end:
        start = scheme.end()
        if whole_line:
            return start, end
        value = text[start:end]
    elif match["separator"] == ",":
        return None  # a list of names of headers
    if _PLACEHOLDER.fullmatch(value):
        return None
    if mark is None:
        as_code = _IDENTIFIER.fullmatch(value) and not _has_digit(value) and scheme is None
        if as_code or "(" in value or "[" in value:
            return None
    elif not value.strip() or (" " in value.strip() and scheme is None):
        return None
    if scheme is not None and value.isalpha() and value.islower():
        return None  # `Bearer mytoken`, `Basic realm`
    if _PLACEHOLDER.fullmatch(value) or "%s" in value or value.startswith("{"):
        return None
    if len(value) < (6 if scheme is not None else 8):
        return None
    if mark is None and end == start + _LOOK:
        rest = _WORD.match(text, end)
        end = rest.end() if rest is not None else end
    return start, end


def _is_cookie(value: str) -> bool:
    """Whether one of the cookies may be a key to something: short and spelt words are not."""
    for name, content in _PAIR.findall(value):
        if name.lower() in _COOKIE_ATTRIBUTE or name.startswith("$"):
            continue
        content = content.strip().strip("\\'\"")
        least = 5 if _SHORT_COOKIE.search(name) else 8
        if len(content) >= least and _has_digit(content) and not _PLACEHOLDER.fullmatch(content):
            words = re.fullmatch(
                r"[A-Z]+(?:_[A-Z]+)+(?:_\d+)?|[A-Z][a-z]+(?:_[A-Z][a-z]+)+(?:_\d+)?", content
            )
            if words is None:
                return True
        elif least == 5 and len(content) >= 16 and content.isalnum():
            return True
    return False


_SCHEME: Final = re.compile(
    r"(?<!\w)(?:bearer|basic|auth (?:plain|login|xoauth2))[ \t]{1,4}"
    r"(?P<value>[A-Za-z0-9._~+/-]{12,4096}+={0,2})",
    re.IGNORECASE,
)


def _scheme_span(match: re.Match[str]) -> _Span | None:
    value = match["value"]
    return match.span("value") if _has_digit(value) or value.endswith("=") else None


def _matched(
    pattern: re.Pattern[str], span_of: Callable[[re.Match[str]], _Span | None], text: str
) -> list[_Span]:
    """Where the matches have secrets; looks on behind each of them."""
    spans: list[_Span] = []
    at = count = 0
    while (match := pattern.search(text, at)) is not None:
        count += 1
        if count > MAX_CANDIDATES:
            raise _TooMuchError
        span = span_of(match)
        at = max(match.start() + 1, match.end() if span is None else span[1])
        if span is not None:
            spans.append(span)
    return spans


# Assignments to names that say secret, and options of commands


def _assignments(text: str, lowered: str) -> list[_Span]:
    spans: list[_Span] = []
    if (
        "pass" in lowered
        or "key" in lowered
        or "auth" in lowered
        or "secret" in lowered
        or "pw" in lowered
        or "psk" in lowered
        or "credential" in lowered
        or "identified by" in lowered
    ):
        spans = _named(text, lowered, _STRONG, weak=False)
        if "pass" in lowered or "pw " in lowered or "identified by" in lowered:
            spans += _matched(_SPOKEN, _spoken_span, text)
    if ":" in lowered and lowered.count(":") >= 4:
        spans += _matched(_PGPASS, _pgpass_span, text)
    if _FLAG.search(text) is not None:
        commands = list(_COMMAND.finditer(lowered))
        for number, command in enumerate(commands[:MAX_CANDIDATES]):
            # The arguments of one may name some others.
            following = commands[number + 3].start() if number + 3 < len(commands) else len(text)
            spans += _command_spans(text, command, following)
    return spans


def _tokens(text: str, lowered: str) -> list[_Span]:
    if (
        "token" in lowered
        or "sig" in lowered
        or "jwt" in lowered
        or "session" in lowered
        or "otp" in lowered
    ):
        return _named(text, lowered, _WEAK, weak=True)
    return []


_STRONG: Final = re.compile(
    r"passw(?:or)?d|passphrase|passcode|pass|pwd|pw|psk|secret|credential|key|auth|connectionstring"
)
_WEAK: Final = re.compile(r"token|sig(?:nature)?|jwt|session(?:[_-]?id)?|otp")
#: Names that stand for a secret only as a word of their own.
_SHORT_NAMES: Final = frozenset(
    {"pass", "pwd", "pw", "psk", "auth", "sig", "jwt", "otp", "session"}
)
#: What may follow a name directly.
_ENDINGS: Final = frozenset(
    {"", "s", "key", "keys", "value", "text", "string", "id", "word", "phrase"}
)
_KEY_KINDS: Final = tuple(
    _words(
        """
        instrumentation
        api access private account auth encryption signing shared service license master secret
        storage fernet session subscription webhook client decryption admin host app application
        primary secondary hmac wandb openai kaggle
        """
    )
)
_PASS_KINDS: Final = tuple(
    _words(
        """
        store key require smtp sql redis user root admin db trust
        """
    )
)
#: Names that hold a secret's name or place, not the secret.
_LOCATION_SUFFIX: Final = re.compile(
    r"(?:[_.-](?:file|path|dir|name|names|id|ids|ref|uri|type|len|length|policy|field|fields"
    r"|prompt|input|manager"
    r"|mgr|expiry|ttl|version|arn|provider|state|count|hash_?name|callback|func|function|class"
    r"|env|var|validator"
    r"|url|endpoint|required|min|max|size|cache|error|handler|format|list|map|set|chars|protected"
    r"|reset|change)"
    r"|keyname|keyid|name|file|path)$"
)
_NAME_REST: Final = re.compile(r"(?P<letters>[a-z]{0,40}+)(?P<rest>[\w.-]{0,64}+)")
_SEPARATOR: Final = re.compile(
    rf"(?P<close>{_QUOTE})?[ \t]{{0,2}}[\])]?"
    r"(?:[ \t]{0,20}(?P<op>:[ \t]*(?:typing\.)?(?:optional\[)?(?:str|bytes"
    r"|secretstr)\]?(?:[ \t]*\|[ \t]*none)?"
    r"[ \t]*=(?!=)|:=|=>|===?|=~|!=|=(?:3d)?|:(?!:)|%3d"
    r"|%3a(?:%20|\+)?)[ \t]{0,8}(?:\r?\n(?=[ \t]{2,}\S)[ \t]{1,40})?"
    rf"|(?P<attribute>[ \t]{{1,4}}value=|\s{{1,40}}value:[ \t])"
    r"|(?P<tag>(?:\s[^<>\n]{0,80}?)?(?:>|&gt;)|(?:</name>|&lt;/name&gt;)\s{0,80}(?:<value>"
    r"|&lt;value&gt;))"
    rf"|(?P<pair>[ \t]{{0,2}},\s{{0,40}}{_QUOTE}?value{_QUOTE}?[ \t]{{0,2}}[:=][ \t]{{0,2}})"
    r"|(?P<item>[ \t]{0,2},[ \t\r\n]{0,8})"
    r"|(?P<space>[ \t]{1,4}))"
)
_OPENING: Final = re.compile(rf"[bfru]{{0,2}}(?P<quote>{_QUOTE})", re.IGNORECASE)
_BARE: Final = re.compile(
    r"(?:[^\s'\"`,;&<>(){}\[\]|\\]++|&(?!amp;|quot;|lt;|gt;|#\d|[\w.-]{1,40}=)"
    r"|,(?=\S)(?![\w.\"'-]{1,40}[=:]|['\"{\[(])"
    r"|\\(?![nrtuxabfv0\"'\\`]))+"
)
#: Characters of a value by which it is judged.
_LOOK: Final = 128
_REST: Final = re.compile(r"[^\s'\"`;]*+")
_ENCODED_BARE: Final = re.compile(r"(?:(?!%2[26]|%27|%7d|%0a|%20|%3b)[^\s'\"&;<>])+", re.IGNORECASE)
_NESTED: Final = re.compile(
    r"[\w.-]{0,40}(?:passw(?:or)?d|passphrase|secret|credentials?|pwd|key|token"
    r"|_pass)[\w-]{0,40}[=:]",
    re.IGNORECASE,
)
#: What a connection string has between its parts.
_SEMICOLON_PARTS: Final = re.compile(r"[^;\r\n'\"]{1,256}")
_MECHANISM: Final = re.compile(r"[A-Z0-9]+(?:-[A-Z0-9]+)*|[A-Za-z]+")
_AUTH_PAIR: Final = re.compile(rf"\([ \t]*{_QUOTE}[^'\"\n]{{0,128}}{_QUOTE},[ \t]*({_QUOTE})")
_TAG_CONTENT: Final = re.compile(r"(?:<!\[CDATA\[)?((?:(?!\]\]>|&lt;)[^<\r\n]){3,1024})")
_PAIR_BEGIN: Final = re.compile(rf"\([ \t]*[bu]?{_QUOTE}$")
_ARGUMENT: Final = re.compile(r"[^\s'\"`]{1,1024}")
_TEMPLATE: Final = re.compile(r"%\(|%s|\{[\w.!:\[\]()'\" ]*\}|\$\{|\$\(|\{\{")


def _named(text: str, lowered: str, anchors: re.Pattern[str], *, weak: bool) -> list[_Span]:
    """Where values stand that are assigned to a name that says secret."""
    spans: list[_Span] = []
    at = count = 0
    while (anchor := anchors.search(lowered, at)) is not None:
        at = anchor.end()
        end = _name_end(text, lowered, anchor)
        if end < 0:
            continue
        count += 1
        if count > MAX_CANDIDATES:
            raise _TooMuchError
        separator = _SEPARATOR.match(lowered, end)
        if separator is None:
            continue
        span = _assigned(text, lowered, anchor.start(), end, separator, weak=weak)
        if span is not None:
            spans.append(span)
            at = max(at, span[1])
        elif separator["op"] is not None:
            at = max(at, end)
    return spans


def _name_end(text: str, lowered: str, anchor: re.Match[str]) -> int:
    """Where the name ends of which an anchor is a part; -1 if it does not say secret."""
    start, end = anchor.span()
    word = anchor.group()
    previous = lowered[start - 1] if start else " "
    if word == "key":
        before = lowered[max(0, start - 16) : start].rstrip("_-. ")
        # As a word of its own only behind what says which key: sort_key is none.
        if not before.endswith(_KEY_KINDS):
            return -1
    elif (
        word in _SHORT_NAMES
        and previous.isalpha()
        and not _begins_hump(text, start)
        and not (word == "pass" and lowered[max(0, start - 8) : start].endswith(_PASS_KINDS))
    ):
        return -1
    rest = _NAME_REST.match(lowered, end)
    assert rest is not None
    letters = rest["letters"]
    if letters:
        humps = next((n for n in range(len(letters)) if _begins_hump(text, end + n)), None)
        if (letters if humps is None else letters[:humps]) not in _ENDINGS:
            return -1
        if word in _SHORT_NAMES and humps != 0:
            return -1
    name_end = rest.end()
    # A sentence's full stop, or a dash before what follows, is no part of the name.
    while name_end > end and lowered[name_end - 1] in ".-":
        name_end -= 1
    if _LOCATION_SUFFIX.search(lowered, end, name_end):
        return -1
    # `auth.rootPassword`: what counts is said last.
    return -1 if word == "auth" and _STRONG.search(lowered, end, name_end) else name_end


def _begins_hump(text: str, at: int) -> bool:
    return text[at].isupper() and text[at - 1].islower()


def _option_before(lowered: str, start: int) -> bool:
    """Whether a name is an option of a command: `--db-password`, `-storepass`."""
    begin = start
    while (
        begin > 0
        and start - begin < 40
        and (lowered[begin - 1].isalnum() or lowered[begin - 1] in "-_")
    ):
        begin -= 1
    before = lowered[begin:start]
    if before.startswith("--"):
        return True
    # With one dash only what cannot be several short options.
    return (
        before[:1] == "-"
        and lowered.startswith("pass", start)
        and before[1:].isalpha() | (before == "-")
    )


def _assigned(
    text: str, lowered: str, start: int, name_end: int, separator: re.Match[str], *, weak: bool
) -> _Span | None:
    op = separator["op"]
    at = separator.end()
    name = lowered[start:name_end]
    opening = _OPENING.match(text, at)
    if separator["tag"] is not None:
        return _in_tag(text, lowered, start, at, name, weak=weak)
    if op is None:
        if separator["pair"] is not None or separator["attribute"] is not None:
            op = "="
        elif separator["item"] is not None:
            return _as_item(text, lowered, start, separator, opening, name)
        else:
            return _spaced(text, lowered, start, separator, opening, name)
    if op in ("==", "===", "!=", "=~"):
        return None
    if opening is not None:
        return _quoted(text, at, opening, name, separator, weak=weak)
    if op.startswith("%"):
        value = _ENCODED_BARE.match(text, at)
        wanted = (
            value is not None
            and len(value.group()) >= 3
            and not (weak and not _has_digit(value.group()))
        )
        return value.span() if value is not None and wanted else None
    if text.startswith("{", at):
        return _in_braces(text, lowered, at)
    if name == "auth" and text.startswith("(", at):
        found = _AUTH_PAIR.match(text, at)
        end = _closing(text, found.end(), found[1]) if found is not None else None
        return (found.end(), end) if found is not None and end is not None else None
    return _bare(text, lowered, start, at, name, op, separator, weak=weak)


def _closing(text: str, start: int, mark: str) -> int | None:
    """Where a text in quotes ends; None if that is not on the same line or too far away."""
    if not mark.endswith(("'", '"', "`")):
        end = text.find(mark, start, start + 1024)
        return None if end < 0 or "\n" in text[start:end] else end
    depth, sign = len(mark) - 1, mark[-1]
    at = start
    limit = min(len(text), start + 1024)
    while (at := text.find(sign, at, limit)) >= 0:
        slashes = at
        while slashes > start and text[slashes - 1] == "\\":
            slashes -= 1
        count = at - slashes
        if count <= depth or (depth == 0 and count % 2 == 0):
            line = text[start:slashes]
            return None if "\n" in line else (slashes if count <= depth else at)
        at += 1
    return None


def _quoted(
    text: str, at: int, opening: re.Match[str], name: str, separator: re.Match[str], *, weak: bool
) -> _Span | None:
    start = opening.end()
    end = _closing(text, start, opening["quote"])
    if end is None:
        # Cut off, or not closed on this line.
        run = _BARE.match(text, start)
        end = run.end() if run is not None else start
        if end - start < 6 or not _has_digit(text[start:end]):
            return None
    value = text[start:end]
    if (
        len(value) < 3
        or _PLACEHOLDER.fullmatch(value)
        or _NESTED.match(value)
        or value.endswith((":", "?"))
    ):
        return None
    if _TEMPLATE.search(value):
        return None
    words = value.split()
    if len(words) >= 3 and (any(word.lower() in _PROSE for word in words) or len(words) > 8):
        return None
    if name.startswith("auth"):
        looks = len(value) >= 8 and _has_digit(value) and not value.replace(".", "").isdigit()
        looks = looks or (len(value) >= 8 and _encodes_secret(value))
        return (start, end) if looks and len(words) == 1 else None
    if name.startswith("credential") and len(words) > 1:
        return None
    lowered = value.lower()
    if lowered == name or (lowered.isalpha() and lowered in name):
        return None
    if lowered.endswith(name) and not _has_digit(value) and _IDENTIFIER.fullmatch(value):
        return None
    if weak:
        if len(words) > 1 or len(value) < 4:
            return None
        return (
            (start, end) if _has_digit(value) and len(value) >= 6 and not value.isdigit() else None
        )
    if (
        separator["close"] is None
        and _IDENTIFIER.fullmatch(value)
        and ("_" in value and value.islower())
    ):
        # `field="user_password"`: a name of something.
        return None if _NESTED.match(f"{value}=") else (start, end)
    return start, end


def _bare(
    text: str,
    lowered: str,
    name_start: int,
    at: int,
    name: str,
    op: str,
    separator: re.Match[str],
    *,
    weak: bool,
) -> _Span | None:
    found = _BARE.match(text, at, at + _LOOK)
    if found is None:
        return None
    span = _bare_span(text, lowered, name_start, at, found, name, op, separator, weak=weak)
    if span is not None and span[1] == at + _LOOK:
        rest = _BARE.match(text, span[1])
        return span if rest is None else (at, rest.end())
    return span


def _bare_span(
    text: str,
    lowered: str,
    name_start: int,
    at: int,
    found: re.Match[str],
    name: str,
    op: str,
    separator: re.Match[str],
    *,
    weak: bool,
) -> _Span | None:
    end = found.end()
    value = found.group()
    while value and value[-1] in ".:," and (end >= len(text) or text[end] in " \t\r\n\"'"):
        value, end = value[:-1], end - 1
    after = text[end : end + 1]
    part_of_string = lowered[:name_start].rstrip(" \t").endswith(";") and op == "="
    before = lowered[name_start - 1] if name_start else ""
    if op == "=" and part_of_string and ";" in text[at : at + 256]:
        # A connection string: what stands between its semicolons, spaces too.
        whole = _SEMICOLON_PARTS.match(text, at)
        if whole is not None:
            end = whole.end()
            value = whole.group().rstrip()
            after = ""
    if (
        _PLACEHOLDER.fullmatch(value)
        or _NESTED.match(value)
        or value.startswith(("/", "~/", "$", "@"))
    ):
        return None
    identifier = _IDENTIFIER.fullmatch(value) is not None
    if after in ("(", "[", "{") and after:
        if identifier or not value:
            return None
        rest = _REST.match(text, end)
        end = rest.end() if rest is not None else end
        value = text[at:end]
    if len(value) < 4 and not (part_of_string and len(value) >= 3):
        return None
    digit = _has_digit(value)
    spaced = " " in separator.group() or "\t" in separator.group()
    if name.startswith("auth"):
        # `AUTH=CRAM-MD5`, `auth: required`.
        return (
            (at, end) if digit and len(value) >= 8 and _MECHANISM.fullmatch(value) is None else None
        )
    if weak:
        return _weak(value, at, end, before, spaced=spaced, identifier=identifier)
    if value.replace(".", "").replace("_", "").isdigit() and (
        op != "=" or spaced or len(value) < 4
    ):
        return None
    lower = value.lower()
    if identifier and (lower in name or (lower.endswith(name) and not digit)):
        return None
    if op == "=" and not spaced:
        if identifier and ("_" in value or "." in value) and not digit and not part_of_string:
            return None
        return at, end
    if not identifier:
        # `name: Type[…]`, `pass: 3.5 s`, `key: value` in prose.
        if ":" in value and not digit:
            return None
        return at, end
    if digit:
        return (
            None if ("_" in value or "." in value) and value.islower() and op != ":" else (at, end)
        )
    if "_" in value or "." in value:
        return None
    if op == ":" and len(value) >= 6 and value.islower() and lower not in _PROSE:
        # `password: swordfish` as a line of its own, in YAML or at its end.
        begin = lowered.rfind("\n", 0, name_start) + 1
        stop = lowered.find("\n", end)
        alone = not text[end : stop if stop >= 0 else len(text)].strip(" \t\r'\"\\n")
        head = lowered[begin:name_start].strip(" \t-#*>'\"_")
        if alone and len(head) <= 24 and separator["close"] is None:
            return at, end
    return None


def _weak(
    value: str, at: int, end: int, before: str, *, spaced: bool, identifier: bool
) -> _Span | None:
    """What follows token= and the like: it has to look like a secret itself."""
    if not _has_digit(value):
        # In a URL anything that is called token is one.
        return (at, end) if before in ("?", "&") and len(value) >= 4 else None
    if value.isdigit():
        return None
    if value.count(".") == 1 and value.replace(".", "").isdigit():
        return None
    if len(value) >= 16:
        return at, end
    letters = any(map(str.isalpha, value))
    if len(value) < (10 if spaced else 6) or not letters:
        return None
    if identifier and re.fullmatch(r"[A-Za-z_.]+\d{0,2}", value):
        return None  # token=tok2
    return at, end


def _in_tag(text: str, lowered: str, start: int, at: int, name: str, *, weak: bool) -> _Span | None:
    """`<password>…</password>`, also with attributes, a prefix, or escaped."""
    begin = max(
        lowered.rfind("<", max(0, start - 80), start),
        lowered.rfind("&lt;", max(0, start - 80), start),
    )
    if begin < 0 or re.search(r"[\s/>]", lowered[begin + 1 : start].removeprefix("name>")):
        return None
    found = _TAG_CONTENT.match(text, at)
    if found is None or not text.startswith(("</", "&lt;/", "]]>"), found.end()):
        return None
    value = found[1].strip()
    if _PLACEHOLDER.fullmatch(value) or _TEMPLATE.search(value) or (weak and not _has_digit(value)):
        return None
    return found.span(1)


def _in_braces(text: str, lowered: str, at: int) -> _Span | None:
    """ODBC's `Pwd={…}`; a name in braces is one of a template."""
    end = text.find("}", at, at + 256)
    while end >= 0 and text.startswith("}}", end):
        end = text.find("}", end + 2, at + 256)
    if end < 0 or "\n" in text[at:end]:
        return None
    value = text[at + 1 : end]
    if len(value) < 3 or value.startswith(("{", "'", '"', "%")) or _PLACEHOLDER.fullmatch(value):
        return None
    window = lowered[max(0, at - 256) : at + 256]
    is_odbc = "uid=" in window or "driver=" in window or "server=" in window or "dsn=" in window
    template = re.fullmatch(r"[\w.!:\[\]()'\" ]*", value)
    if template and not (is_odbc and _has_digit(value)):
        return None
    return at + 1, end


def _as_item(
    text: str,
    lowered: str,
    start: int,
    separator: re.Match[str],
    opening: re.Match[str] | None,
    name: str,
) -> _Span | None:
    """`'--password', 'X'` in a list of arguments; `('password', 'X')` in one of pairs."""
    if opening is None or separator["close"] is None:
        return None
    end = _closing(text, opening.end(), opening["quote"])
    if end is None:
        return None
    value = text[opening.end() : end]
    if _option_before(lowered, start):
        return (opening.end(), end) if _is_argument(value, name) else None
    begin = start
    while begin > 0 and (lowered[begin - 1].isalnum() or lowered[begin - 1] in "_.-"):
        begin -= 1
    in_pair = _PAIR_BEGIN.search(text[max(0, begin - 20) : begin])
    closed = text[end + len(opening["quote"]) :][:3].lstrip().startswith(")")
    looks = (_has_digit(value) or not value.replace("_", "").isalnum()) and " " not in value
    if in_pair and closed and looks and len(value) >= 4 and not _PLACEHOLDER.fullmatch(value):
        return opening.end(), end
    return None


#: What a name may stand behind where a space takes the place of `=`.
_BEFORE_SPACED: Final = re.compile(
    r"(?:(?:^|\n)[ \t]*(?:env|setenv|setx|set)[ \t]+[\w.-]*|login[ \t]+\S{1,64}\s+"
    r"|machine[ \t]+\S{1,64}\s+(?:[\w ]{0,80}\s)?"
    r"|require|master)$"
)


def _spaced(
    text: str,
    lowered: str,
    start: int,
    separator: re.Match[str],
    opening: re.Match[str] | None,
    name: str,
) -> _Span | None:
    """`--password X`, `ENV DB_PASSWORD X`, `login u password X`."""
    if separator["close"] is not None:
        return None
    at = separator.end()
    if opening is not None:
        end = _closing(text, opening.end(), opening["quote"])
        at = opening.end()
    else:
        found = _ARGUMENT.match(text, at)
        end = found.end() if found is not None else None
    if end is None:
        return None
    value = text[at:end]
    if _option_before(lowered, start):
        if text.startswith("]", end - 1) and value.isupper():
            return None
        return (at, end) if _is_argument(value, name) else None
    before = _BEFORE_SPACED.search(lowered[max(0, start - 160) : start])
    if before is None or (name == "pass" and before.group() not in ("require", "master")):
        return None
    return (at, end) if _is_argument(value, name) else None


def _is_argument(value: str, name: str) -> bool:
    """Whether what follows an option is its value, and no word of a sentence or of a usage text."""
    if (
        len(value) < 3
        or value.startswith(("-", "=", "(", "|", "\\"))
        or _PLACEHOLDER.fullmatch(value)
    ):
        return False
    bare = value.rstrip("]).,;:'\"")
    if bare.lower() in _PROSE or _TEMPLATE.search(value) or bare.startswith(("/", "~/")):
        return False
    metavar = bare.isupper() and bare.replace("_", "").isalpha()
    return not (metavar and (bare.lower() in name or name in bare.lower() or len(bare) < 6))


_SPOKEN: Final = re.compile(
    rf"(?:pass(?:word|phrase|code)|identified by|\bpw)(?: is| was| of"
    rf"| for [\w'\"@.-]{{1,64}}(?: is)?)?(?:[ \t]{{1,2}}|[ \t]?(?P<call>\())"
    rf"(?P<quote>{_QUOTE})(?P<value>[^\s'\"`\\]{{4,256}})(?=(?P=quote))"
    r"|(?:password|passphrase|passcode)(?:(?: for [\w .@'-]{1,60}?)? (?:is|was|to)"
    r"|(?: for [\w .@'-]{1,60}?):)[ \t:]{1,2}(?P<plain>[^\s'\"`,;]{4,256})"
    r"|(?:passwords? |identified by |\b(?:and|with|the) pw )(?P<bare>[^\s'\"`,;:=()\[\]{}]{5,256})",
    re.IGNORECASE,
)


def _spoken_span(match: re.Match[str]) -> _Span | None:
    if match["value"] is not None:
        if match["call"] is not None and not match.group()[:8].isupper():
            return None
        nothing = _PLACEHOLDER.fullmatch(match["value"]) or _TEMPLATE.search(match["value"])
        return None if nothing else match.span("value")
    group = "plain" if match["plain"] is not None else "bare"
    value = match[group].rstrip(".")
    start = match.start(group)
    symbols = sum(not character.isalnum() for character in value)
    looks = _has_digit(value) and any(map(str.isalpha, value))
    looks = looks and (symbols == 0 or not value.islower() or any(c in "!@#$%^&*+~" for c in value))
    if group == "bare":
        looks = (
            looks
            and (symbols > 0 or not value[0].isdigit())
            and "_" not in value
            and "/" not in value
        )
    if (
        not looks
        or _PLACEHOLDER.fullmatch(value)
        or _TEMPLATE.search(value)
        or value.startswith(("-", "<", "%"))
    ):
        return None
    return start, start + len(value)


_PGPASS: Final = re.compile(
    r"(?<![^\s'\"`\\])(?:n(?<=\\n))?[\w.*-]{1,128}:(?:\d{4,5}"
    r"|\*):[\w.*$-]{1,64}:[\w.*@-]{1,64}:(?P<value>(?:\\:|[^\s:'\"]){3,256})(?![^\s'\"])"
)


def _pgpass_span(match: re.Match[str]) -> _Span | None:
    return (
        None
        if _PLACEHOLDER.fullmatch(match["value"]) or match["value"].isdigit()
        else match.span("value")
    )


_BETWEEN: Final = rf"(?:[ \t]{{1,4}}|=|{_QUOTE},[ \t]{{0,2}}[bu]?{_QUOTE})"
_BEGIN_ARGUMENT: Final = rf"(?:[ \t]|{_QUOTE},?[ \t]{{0,2}}[bu]?{_QUOTE})"
_VALUE: Final = (
    r"(?P<value>(?<=')[^'\n\\]{3,256}(?=\\?')|(?<=\")[^\"\n\\]{3,256}(?=\\?\")|[^\s'\"`\\]{3,256})"
)
_Q: Final = r"['\"]?"


def _flag(flags: str, *, attached: bool = False, before: str = "") -> re.Pattern[str]:
    between = f"{_BETWEEN}?" if attached else _BETWEEN
    return re.compile(rf"{_BEGIN_ARGUMENT}-(?:{flags}){between}{_Q}{before}{_VALUE}")


#: What follows a command: how its options take a password.
_USER_COLON: Final = r"[^\s'\":]{0,128}:"
_COMMANDS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    (
        r"mysql\w*|mariadb[\w-]*|7za?|rar|unrar|mydumper|myloader",
        re.compile(rf"{_BEGIN_ARGUMENT}-p{_Q}{_VALUE}"),
    ),
    (r"sshpass", _flag("p", attached=True)),
    (
        r"curl|https?ie|wget|http",
        _flag("u|-user|U|-proxy-user|a|-auth", attached=True, before=_USER_COLON),
    ),
    (
        r"(?:(?:docker|podman|helm|oras|crane|skopeo|nerdctl|buildah|cf|oc|az|ibmcloud)"
        r"(?:[ \t]+|['\"],[ \t]?['\"])(?:(?:registry|acr)(?:[ \t]+|['\"],[ \t]?['\"]))?login"
        r"|twine|mongo\w*)",
        _flag("p"),
    ),
    (r"redis-cli|valkey-cli|keydb-cli", _flag("a|-pass")),
    (r"ldap\w+", _flag("w")),
    (r"sqlcmd|bcp|tsql|ipmitool|zip|unzip|mosquitto_\w+|isql", _flag("P", attached=True)),
    (r"smbclient|rpcclient|smbget|net", _flag("U", before=r"[^\s'\"%]{1,128}%")),
    (r"lftp", _flag("u", before=r"[^\s'\",]{1,128},")),
    (r"openssl", re.compile(rf"{_BEGIN_ARGUMENT}(?:{_Q}pass:|-k{_BETWEEN}{_Q}){_VALUE}")),
    (r"ssh-keygen", _flag("N|P")),
    (r"htpasswd", re.compile(rf"[ \t]-\w*b\w*[ \t]+\S+[ \t]+\S+[ \t]+{_Q}{_VALUE}")),
    (r"rabbitmqctl", re.compile(rf"(?:add_user|change_password)[ \t]+\S+[ \t]+{_Q}{_VALUE}")),
    (r"xfreerdp|rdesktop", re.compile(rf"[ \t](?:/p:|-p[ \t]?){_Q}{_VALUE}")),
    (r"snmp\w+", _flag("A|X")),
)
_FLAG: Final = re.compile(
    r"[ \t'\"](?:-[-aubpwAPUX]\S|-[auwpkAPUXN][ '\"]|/p:|pass:|add_user|change_pas)"
)
_COMMAND: Final = re.compile(
    "|".join(
        rf"(?P<c{number}>(?<![\w.-])(?:{names})(?:\.exe)?(?![\w.-])(?=[ \t'\"]))"
        for number, (names, _) in enumerate(_COMMANDS)
    )
)
_LINE_REST: Final = re.compile(r"[^\r\n]{0,400}")


def _command_spans(text: str, command: re.Match[str], limit: int) -> Iterator[_Span]:
    assert command.lastgroup is not None
    pattern = _COMMANDS[int(command.lastgroup[1:])][1]
    rest = _LINE_REST.match(text, command.end(), max(limit, command.end()))
    assert rest is not None
    for match in pattern.finditer(text, command.end(), rest.end()):
        value = match["value"]
        if (
            not _PLACEHOLDER.fullmatch(value)
            and not _TEMPLATE.search(value)
            and value.lower() not in _PROSE
        ):
            yield match.span("value")


_FAMILIES: Final[dict[str, Callable[[str, str], list[_Span]]]] = {
    "format": _formats,
    "url": _urls,
    "header": _headers,
    "assignment": _assignments,
    "token": _tokens,
}


def _spans(text: str, lowered: str) -> list[_Span]:
    return [span for find in _FAMILIES.values() for span in find(text, lowered)]
