"""The redactor: known values first, then what the patterns of the families find."""

from __future__ import annotations

import hashlib
import re
import secrets as random_source
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NoReturn, cast

from scalable_runs.redact.assignments import assignments, tokens
from scalable_runs.redact.formats import formats
from scalable_runs.redact.headers import headers
from scalable_runs.redact.known import (
    MIN_SECRET_LENGTH,
    forms,
    is_worth_hiding,
    name_in_pair,
    named_values,
    secrets_of,
)
from scalable_runs.redact.names import (
    MAX_CACHED,
    MAX_CACHED_LENGTH,
    is_secret_name,
    is_secret_number_name,
)
from scalable_runs.redact.text import (
    REDACTED,
    Family,
    Span,
    TooManyCandidatesError,
    lowered,
    without,
)
from scalable_runs.redact.urls import urls

#: Characters of a text that are kept: half of them from its beginning, half from its end.
MAX_TEXT: Final = 65_536

#: Characters beyond these that are searched too, so that a secret across the cut is seen whole.
_OVERLAP: Final = 8_192
_MAX_DEPTH: Final = 32
#: What Dask calls most tasks: a name, then a digest or a number, then the indices of a part.
_PLAIN_NAME: Final = re.compile(
    r"(?:\(')?([\w.-]{0,80}?)(?:-[0-9a-f]{32}|-?\d{1,12})?(?:'(?:, \d{1,12})*+,?\))?"
)
_WHOLE: Final = "[redacted: a text of "
_FAMILIES: Final[dict[str, Family]] = {
    "format": formats,
    "url": urls,
    "header": headers,
    "assignment": assignments,
    "token": tokens,
}


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
        Names of families that are not searched for, out of :attr:`families`.
    salt
        Makes the digests of :meth:`identity`; random unless given.

    Raises
    ------
    ValueError
        A name in `off` is not a family.
    re.error
        An extra pattern is not a regular expression.

    Notes
    -----
    It cannot be pickled: the secrets it knows must not travel.
    """

    #: `secrets` (exact values), `format` (keys of known providers, JWT, private keys, base64 of any
    #: of these), `url` (passwords in URLs), `header` (authorization, cookies), `assignment`
    #: (password = …, options of commands), `token` (token=, sig=), `extra`.
    families: Final[tuple[str, ...]] = ("secrets", *_FAMILIES, "extra")

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
        self.secrets: Final = frozenset(filter(is_worth_hiding, secrets))
        #: Makes the digests of :meth:`identity`.
        self.salt: Final = salt or random_source.token_bytes(16)
        # The longest first: a secret may be part of another.
        ordered = sorted(self.secrets, key=lambda value: (-len(value), value))
        long = [value for value in ordered if len(value) >= MIN_SECRET_LENGTH]
        every = {form for value in long for form in forms(value)}
        self._values = tuple(sorted(every, key=lambda form: (-len(form), form)))
        self._words = tuple(ordered[len(long) :])
        alternatives = "|".join(map(re.escape, self._words))
        self._word_pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
        self._extra = tuple(re.compile(pattern) for pattern in extra_patterns)
        if "secrets" in off:
            self._values = self._words = ()
        if "extra" in off:
            self._extra = ()
        self._families = tuple(find for name, find in _FAMILIES.items() if name not in off)
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
        """Make a redactor that knows the values of variables and options with names of secrets.

        Parameters
        ----------
        environ
            Environment variables. Secrets that the patterns find in a value, such as passwords in
            URLs, and headers for OTLP are included for any name of the variable.
        named
            More values by name, nested or with dots: Dask's options, a manifest.
        extra_patterns, off
            As for the class.
        """
        items = list(environ.items())
        for mapping in named:
            items += named_values(mapping)
        found = {secret for name, value in items for secret in secrets_of(name, value, _find)}
        return cls(secrets=found, extra_patterns=extra_patterns, off=off)

    def __call__(self, text: str) -> str:
        """Return the text without secrets; the same object if there was none.

        Of a text of more than :data:`MAX_TEXT` characters the beginning and the end are kept, and a
        line between them says how much is left out.
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
        """Return a name without secrets that still differs from all other names.

        A name with a secret in it gets a digest at its end, the same for equal names.
        """
        plain = _PLAIN_NAME.fullmatch(name)
        if plain is not None:
            stem = plain[1]
            is_known = any(value in name for value in (*self._values, *self._words))
            if not is_known and self.short(stem) is stem:
                return name
        redacted = self.short(name)
        if redacted is name:
            return name
        digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=6, key=self.salt)
        return f"{redacted}-{digest.hexdigest()}"

    def short(self, text: str) -> str:
        """Return the text without secrets; the results of short texts are cached."""
        if len(text) > MAX_CACHED_LENGTH:
            return self(text)
        found = self._cache.get(text)
        if found is None:
            found = self(text)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[text] = found
        # The same object if there is no secret, so that callers can test for it.
        return text if found == text else found

    def value(self, value: Any, name: str = "") -> Any:
        """Return a value of any type without secrets, also within mappings and sequences.

        Parameters
        ----------
        value
            Texts, numbers, mappings, sequences.
        name
            The name of the value: if it is that of a secret, any value is redacted.
        """
        return self._value(value, name, 0)

    def attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes without secrets in their names and values."""
        return {self.short(str(name)): self.value(of, str(name)) for name, of in attributes.items()}

    def lines(self, text: str) -> str:
        """Return a text of any length without secrets; it is searched in pieces of whole lines."""
        parts: list[str] = []
        at = 0
        while at < len(text):
            end = at + MAX_TEXT
            if end < len(text):
                # A private key is not cut in two if its end is near.
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
        lower = lowered(text)
        spans: list[Span] = []
        try:
            for find in self._families:
                spans += find(text, lower)
        except TooManyCandidatesError:
            return f"{_WHOLE}{len(text):,} characters with too many possible secrets]"
        for pattern in self._extra:
            group = "secret" if "secret" in pattern.groupindex else 0
            spans += [match.span(group) for match in pattern.finditer(text)]
        return without(text, spans) if spans else text

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
            pair = name_in_pair(found)
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
        if assignments not in self._families or not is_secret_name(name):
            return False
        if isinstance(value, str):
            return bool(value) and value != REDACTED
        return isinstance(value, bytes) or is_secret_number_name(name)


def _find(text: str) -> list[str]:
    """Return the secrets that the patterns find in a text."""
    text = text[:MAX_TEXT]
    lower = lowered(text)
    try:
        spans = [span for find in _FAMILIES.values() for span in find(text, lower)]
    except TooManyCandidatesError:
        return []
    return [text[start:end] for start, end in spans]
