"""What an object storage answered when it did not do what it was asked, and what to do about it.

The library's texts are read, and never passed on: they contain addresses with signatures, and what
the server repeats of a request.
"""

from __future__ import annotations

import errno
import re
from typing import Final, NamedTuple

_STATUS: Final = re.compile(r"status code: (\d{3})|\(code: (\d{3})\)")
_CODE: Final = re.compile(r"<Code>(\w{1,80})</Code>|\"reason\":\s*\"(\w{1,80})\"")
_KIND: Final = re.compile(r"HttpError \{\s*kind: (\w+)")
_REGION: Final = re.compile(r"<Region>([\w-]{1,40})</Region>")
_METADATA: Final = re.compile(r"169\.254\.|/latest/api/token|computeMetadata|metadata/identity")
_BAD_KEY: Final = re.compile(
    r"Path \"(.{0,500}?)\"(?:: Encountered illegal| contained empty path segment)", re.DOTALL
)
#: Nothing was sent, the answer did not come, or was cut off.
_NOT_ANSWERED: Final = frozenset({"Connect", "Request", "Timeout", "Interrupted", "Decode"})
#: Statuses that another attempt may get past. 501, 505 and 507 stay.
_TEMPORARY: Final = frozenset({408, 429, 500, 502, 503, 504, 509, 529})
#: Errors of which another attempt may get past, whatever their status.
_TEMPORARY_CODES: Final = frozenset(
    {"RequestTimeout", "SlowDown", "InternalError", "ServerBusy", "OperationTimedOut"}
)
#: Of 409 these say that there is such an object; what else answers 409 is a race: try again.
_TAKEN: Final = frozenset({"BlobAlreadyExists", "UnauthorizedBlobOverwrite"})
_NO_PLACE: Final = frozenset(
    {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}
)
_NO_KEY: Final = frozenset(
    {"InvalidAccessKeyId", "XAdminUserNotFound", "InvalidAuthenticationInfo"}
)
_BAD_SECRET: Final = frozenset({"SignatureDoesNotMatch", "AuthenticationFailed"})
_EXPIRED: Final = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
_CLOCK: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_ELSEWHERE: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
_FULL: Final = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"})
_UNTRUSTED: Final = (
    "InvalidCertificate",
    "UnknownIssuer",
    "CertExpired",
    "NotValidForName",
    "BadSignature",
)


class Failure(NamedTuple):
    """Why an object storage did not do what it was asked.

    Attributes
    ----------
    status
        Of the HTTP answer; 0 if there was none.
    code
        The storage's own name of the error, such as `NoSuchBucket`; may be empty.
    kind
        Of the transport's error, if there was no answer: `Connect`, `Timeout`, …
    hint
        What failed below HTTP, of :data:`_BELOW_HTTP`.
    about
        The region that would be right, the key that is wrong, or what is known else.
    """

    status: int = 0
    code: str = ""
    kind: str = ""
    hint: str = ""
    about: str = ""

    @property
    def is_temporary(self) -> bool:
        """Whether another attempt may succeed."""
        if self.hint in ("credentials", "certificate", "tls", "path"):
            return False
        if self.kind in _NOT_ANSWERED or self.code in _TEMPORARY_CODES:
            return True
        conflict = self.status == 409 and self.code not in _TAKEN | _NO_PLACE
        return conflict or self.status in _TEMPORARY

    @property
    def is_taken(self) -> bool:
        """Whether an object that must be new is there already."""
        return self.status in (304, 412) or (self.status == 409 and self.code in _TAKEN)

    @property
    def is_absent(self) -> bool:
        """Whether there is no such object, in a place that exists."""
        known = _NO_PLACE | _NO_KEY | _BAD_SECRET | _EXPIRED | _CLOCK
        return self.status == 404 and self.code not in known

    @property
    def is_behind_the_end(self) -> bool:
        """Whether a range begins behind the end of the object."""
        return self.status == 416

    def error(self, place: str, bucket: str) -> OSError:
        """Return what to raise.

        Parameters
        ----------
        place
            Names the storage for people.
        bucket
            The name of the bucket or container.
        """
        kind, sentence = self._explained(place, bucket)
        said = " ".join(filter(None, (str(self.status or ""), self.code)))
        if not said and not self.hint:
            said = self.kind or self.about
        text = f"{sentence} ({said})" if said else sentence
        if self.code in _FULL or self.status == 507:
            return OSError(errno.ENOSPC, text)
        return kind(text)

    def _explained(self, place: str, bucket: str) -> tuple[type[OSError], str]:
        if self.hint in _BELOW_HTTP:
            kind, sentence = _BELOW_HTTP[self.hint]
            return kind, sentence.format(place=place, about=self.about[:200])
        if self.code in _NO_PLACE:
            return FileNotFoundError, f"there is no bucket {bucket} in {place}: make it first"
        if self.code in _NO_KEY:
            return PermissionError, f"{place} does not know the access key: correct access_key"
        if self.code in _BAD_SECRET:
            return PermissionError, f"{place} refuses the secret key: correct secret_key"
        if self.code in _EXPIRED:
            return PermissionError, f"the credentials for {place} have expired: renew them"
        if self.code in _CLOCK:
            return PermissionError, f"the clocks of this host and {place} differ: set this host's"
        if self.code in _ELSEWHERE or self.status in (301, 307, 308):
            region = f" to {self.about}" if self.about else ""
            return OSError, f"{place} is in another region: set region{region}"
        if self.code in _FULL or self.status == 507:
            return OSError, f"{place} is full: make room or raise its quota"
        if self.status in (401, 403):
            return PermissionError, (
                f"the credentials do not allow this in {place}: "
                "grant them to list, read, write and delete objects"
            )
        if self.status == 404:
            return FileNotFoundError, f"there is no bucket {bucket} in {place}: make it first"
        return self._of_transport(place)

    def _of_transport(self, place: str) -> tuple[type[OSError], str]:
        if self.kind == "Timeout":
            return TimeoutError, f"{place} does not answer in time: see whether it is overloaded"
        if self.kind in _NOT_ANSWERED:
            return ConnectionError, f"{place} cannot be reached: check endpoint and network"
        if self.status in (429, 503):
            return ConnectionError, f"{place} takes no more requests now: try again later"
        if self.status >= 500:
            return ConnectionError, f"{place} fails: see its own log"
        if self.status or self.code:
            return OSError, f"{place} refuses the request: see its documentation for this error"
        return OSError, f"{place} cannot be used: check the settings of the store"


#: What failed before an HTTP request was answered, by hint.
_BELOW_HTTP: Final[dict[str, tuple[type[OSError], str]]] = {
    "credentials": (
        PermissionError,
        "no credentials for {place} were found: set them in the store's config or the environment",
    ),
    "certificate": (
        ConnectionError,
        "the certificate of {place} is not trusted: name its authority in AWS_CA_BUNDLE or "
        "SSL_CERT_FILE",
    ),
    "tls": (ConnectionError, "{place} does not speak TLS: write http:// in endpoint"),
    "dns": (ConnectionError, "there is no host of the name in {place}: check endpoint"),
    "path": (
        OSError,
        "{place} contains an object with an unusable name, {about!r}: remove it or choose another "
        "prefix",
    ),
}


def failure_of(text: str) -> Failure:
    """Return what the library's text of an error says.

    Parameters
    ----------
    text
        The text of an exception of `obstore`, with its part `Debug source`.
    """
    status = _STATUS.search(text)
    code = _CODE.search(text)
    kind = _KIND.search(text)
    # The library, too, refuses a range that begins at the end, and what some answer instead of 416.
    behind = "Wanted range starting at" in text or '"bytes 0--1/0"' in text
    return Failure(
        416 if behind else int(status[1] or status[2]) if status else 0,
        (code[1] or code[2]) if code else "",
        kind[1] if kind and not status else "",
        _hint(text, bool(status)),
        about[1] if (about := _REGION.search(text) or _BAD_KEY.search(text)) else "",
    )


def _hint(text: str, is_answered: bool) -> str:
    if _METADATA.search(text):
        return "credentials"
    if _BAD_KEY.search(text):
        return "path"
    if is_answered:
        return ""
    if any(name in text for name in _UNTRUSTED):
        return "certificate"
    if "InvalidContentType" in text or "CorruptMessage" in text:
        return "tls"
    return "dns" if "dns error" in text or "failed to lookup" in text else ""
