"""Names of variables, options and fields whose values are secret."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: Cached results for short texts that repeat: names, labels, attributes.
MAX_CACHED: Final = 4_096
MAX_CACHED_LENGTH: Final = 256

_WORD_BREAK: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SECRET: Final = re.compile(
    r"passw(?:or)?d|passphrase|passcode|secret|token(?!i|s$|_count|s_)|credential|authorization"
    r"|(?:^|_)cookies?(?:_|$)|(?:api|access|private|account|auth|encryption|signing|shared|service"
    r"|license|master|storage|fernet|secret|session|subscription|webhook|admin)_?key"
    r"|(?:^|_)(?:auth|pass|pw|pwd|jwt|sas|otp|pin)$"
    r"|(?:^|_)(?:pass|pwd|pw)(?:_|$)|[a-z]pwd$|(?<![a-z])pass$",
    re.IGNORECASE,
)
#: The value of a variable like DB_PASSWORD_FILE is where a secret is, not the secret.
_LOCATION: Final = re.compile(
    r"(?:_|^)(?:file|path|dir|sock|socket|name|uri|endpoint|type|ttl|timeout|expiry|expires|id|len"
    r"|length|policy|enabled|required|mode|method|algorithm|version|field|count|limit|provider)$",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"passw|passcode|secret|pwd|(?:otp|pin)$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Return whether a value of that name is secret: `db.password`, `MYSQL_PWD`, `apiKey`."""
    return len(name) <= MAX_CACHED_LENGTH and _is_secret_name(name)


@lru_cache(maxsize=MAX_CACHED)
def _is_secret_name(name: str) -> bool:
    plain = _WORD_BREAK.sub("_", name).replace("-", "_").replace(".", "_")
    return bool(
        _SECRET.search(plain) and not _LOCATION.search(plain) and plain not in ("PWD", "OLDPWD")
    )


def is_secret_number_name(name: str) -> bool:
    """Return whether a number of that name is secret: a number of tokens or of passes is not."""
    return _NUMBER.search(name) is not None
