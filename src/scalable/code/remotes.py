"""URLs of remote repositories, without credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

#: Longest URL that is kept.
_MAX_URL: Final = 2_000
#: `user@host:path`, as of ssh.
_SCP: Final = re.compile(r"(?:[^@/:\s]+@)?([^@/:\s]{2,}):(?!/?/)(.+)", re.DOTALL)
_PROVIDERS: Final = ("github", "gitlab", "bitbucket", "gitea", "gittea")


def remote_url(configuration: Mapping[str, str], branch: str | None) -> str | None:
    """Return the URL of the remote that a branch follows, else of `origin`, else of the first."""
    names = [
        name.removeprefix("remote.").removesuffix(".url")
        for name in configuration
        if name.startswith("remote.") and name.endswith(".url")
    ]
    wanted = (configuration.get(f"branch.{branch}.remote") if branch else None, "origin")
    chosen = next((name for name in wanted if name in names), names[0] if names else None)
    if chosen is None:
        return None
    return without_credentials(configuration[f"remote.{chosen}.url"])


def without_credentials(url: str) -> str:
    """Return a URL without user, password, query and fragment; `ssh` keeps the user's name."""
    url = url.strip()[:_MAX_URL]
    helper, double, rest = url.partition("::")
    if double and "/" not in helper:
        # Another program transports it: `helper::address`.
        return f"{helper}::{without_credentials(rest)}"
    if "://" not in url:
        before, at, host = url.rpartition("@")
        return host if at and ":" in before and url[0] not in "./" else url
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user = parts.username if "ssh" in parts.scheme.lower() else None
    except ValueError:
        # Whatever stands before the last @ may be a password.
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"
    return urlunsplit((parts.scheme, f"{user}@{host}" if user else host, parts.path, "", ""))


class WebAddress(NamedTuple):
    """A remote repository, as OpenTelemetry's conventions name it.

    Attributes
    ----------
    url
        The address for a browser; empty if there is none.
    name, owner
        Name of the repository, and of the user or group that it belongs to.
    provider
        `github`, `gitlab`, …; empty if unknown.
    """

    url: str
    name: str
    owner: str
    provider: str


def web_address(url: str) -> WebAddress:
    """Return the address in the web of a repository whose URL has no credentials."""
    host, path = _host_and_path(url)
    path = path.strip("/").removesuffix(".git").strip("/")
    owner, _, name = path.rpartition("/")
    if not host:
        return WebAddress("", name, "", "")
    provider = next((each for each in _PROVIDERS if each in host.lower()), "")
    return WebAddress(f"https://{host}/{path}", name, owner, provider)


def _host_and_path(url: str) -> tuple[str, str]:
    if "://" in url:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            port = parts.port if parts.scheme in ("http", "https") else None
        except ValueError:
            return "", ""
        if parts.scheme == "file":
            return "", parts.path
        return (f"{host}:{port}" if port else host), parts.path
    match = _SCP.fullmatch(url)
    return ("", url) if match is None else (match[1], match[2])
