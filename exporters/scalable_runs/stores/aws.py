"""Where Amazon's own tools find credentials, region and endpoint: environment and profile files."""

from __future__ import annotations

import configparser
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from obstore.store import S3Credential

#: With one of these, the library finds credentials without our help, ahead of a default profile.
_OTHER_SOURCES: Final = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
#: Kinds of profiles of which credentials must be asked for.
_ASKED_FOR: Final = ("sso_session", "sso_start_url", "role_arn", "credential_process")


@dataclass(frozen=True)
class Found:
    """What environment and profile say.

    Attributes
    ----------
    provider
        Gives the credentials; None leaves them to the library.
    region, endpoint
        Of the service; empty is unknown.
    """

    provider: Any = field(default=None, repr=False)
    region: str = ""
    endpoint: str = ""


def found(profile: str, *, has_keys: bool) -> Found:
    """Return what environment and profile say.

    Parameters
    ----------
    profile
        Name of the profile; that of AWS_PROFILE by default.
    has_keys
        The configuration names credentials: none are looked for.

    Raises
    ------
    OSError
        There is no such profile, or its credentials need a library that is not installed.
    """
    environ = os.environ
    name = profile or environ.get("AWS_PROFILE", "") or environ.get("AWS_DEFAULT_PROFILE", "")
    section = _section(name or "default")
    if name and not section:
        raise PermissionError(f"there is no profile {name} in {_config()} and {_credentials()}")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    place: dict[str, Any] = {
        "region": region or section.get("region", ""),
        "endpoint": endpoint or section.get("endpoint_url", ""),
    }
    if has_keys:
        return Found(**place)
    has_environment = environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY")
    if not profile and (has_environment or (not name and any(map(environ.get, _OTHER_SOURCES)))):
        return Found(**place)
    if section.get("aws_access_key_id") and section.get("aws_secret_access_key"):
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        return Found(Static(*(section.get(name, "") for name in names)), **place)
    if any(section.get(key) for key in _ASKED_FOR):
        return Found(_provider(name or "default"), **place)
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise PermissionError(
            "no credentials for S3 were found: set access_key and secret_key, a profile, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return Found(**place)


def _section(name: str) -> Mapping[str, str]:
    """Return a profile: the file of credentials goes before that of the configuration."""
    in_config = "default" if name == "default" else f"profile {name}"
    return {**_read(_config(), in_config), **_read(_credentials(), name)}


def _read(path: Path, section: str) -> dict[str, str]:
    # Indented lines continue a value; secrets may contain `%`.
    parser = configparser.ConfigParser(interpolation=None, default_section="\0", strict=False)
    try:
        parser.read_string(path.read_text())
        return dict(parser.items(section)) if parser.has_section(section) else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error):
        unreadable = f"the file of profiles {path} cannot be read: correct or remove it"
    raise PermissionError(unreadable)


def _config() -> Path:
    return Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()


def _credentials() -> Path:
    name = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return Path(name).expanduser()


def _provider(profile: str) -> Any:
    """Return what asks for the credentials of a profile: Amazon's own library does."""
    try:
        session = importlib.import_module("boto3.session")
        auth = importlib.import_module("obstore.auth.boto3")
        return auth.Boto3CredentialProvider(session.Session(profile_name=profile))
    except ImportError:
        what = "pip install boto3"
    except Exception as error:
        what = f"they could not be had ({type(error).__name__})"
    raise PermissionError(
        f"the profile {profile} gets its credentials by a role, a login or a program: {what}"
    )


class Static:
    """Credentials that do not change, whatever the environment says."""

    def __init__(self, access_key: str, secret_key: str, session_token: str) -> None:
        self._credential: S3Credential = {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": session_token or None,
            "expires_at": None,
        }

    def __call__(self) -> S3Credential:
        """Return them."""
        return self._credential
