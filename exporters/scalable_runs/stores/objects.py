"""Object storages: S3 and what is compatible with it, Google Cloud Storage, Azure Blob Storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalable_runs.stores import aws
from scalable_runs.stores.cloud import CloudConfig, CloudObjects

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSCredential, ObjectStore, RetryConfig


class S3Objects(CloudObjects):
    """Objects in Amazon S3 or a storage that speaks its protocol.

    Credentials that the configuration does not name come from where Amazon's own tools look:
    environment, profile, web identity, container, instance. Any thread may call it.
    """

    @dataclass(frozen=True)
    class Config(CloudConfig):
        """Options.

        Attributes
        ----------
        access_key, secret_key, session_token
            Credentials; from the environment, a profile or the instance by default.
        region
            Of the bucket; by default that of the environment or profile, else `us-east-1`.
        profile
            Name of the section of Amazon's files of credentials and configuration.
        """

        access_key: str = field(default="", repr=False)
        secret_key: str = field(default="", repr=False)
        session_token: str = field(default="", repr=False)
        region: str = ""
        profile: str = ""

        SYNONYMS: ClassVar[dict[str, str]] = {
            **CloudConfig.SYNONYMS,
            "aws_access_key_id": "access_key",
            "aws_secret_access_key": "secret_key",
            "aws_session_token": "session_token",
            "region_name": "region",
        }

        def __post_init__(self) -> None:
            super().__post_init__()
            if bool(self.access_key) != bool(self.secret_key):
                raise ValueError("access_key and secret_key go together: give both or neither")

    scheme: ClassVar[str] = "s3"

    def _endpoint(self, config: Any) -> str:
        self._found = aws.found(config.profile, has_keys=bool(config.access_key))
        return config.endpoint or self._found.endpoint

    def _open(
        self, config: Config, endpoint: str, client: ClientConfig, retries: RetryConfig
    ) -> ObjectStore:
        found, self._found = self._found, aws.Found()
        provider = found.provider
        if config.access_key:
            provider = aws.Static(config.access_key, config.secret_key, config.session_token)
        settings: dict[str, Any] = {"region": config.region or found.region, "endpoint": endpoint}
        settings = {name: value for name, value in settings.items() if value}
        # Not every storage removes several objects in one request.
        settings["disable_bulk_delete"] = True
        if bundle := os.environ.get("AWS_CA_BUNDLE", ""):
            client["root_certificate"] = Path(bundle).read_bytes()
        return self._library.store.S3Store(
            self._bucket,
            config=settings,
            client_options=client,
            retry_config=retries,
            credential_provider=provider,
        )


class GoogleObjects(CloudObjects):
    """Objects in Google Cloud Storage. Any thread may call it.

    Credentials that the configuration does not name are Google's application default credentials:
    GOOGLE_APPLICATION_CREDENTIALS, those of `gcloud auth application-default login`, the instance.
    """

    @dataclass(frozen=True)
    class Config(CloudConfig):
        """Options.

        Attributes
        ----------
        service_account
            Path of a file with the key of a service account.
        """

        service_account: str = ""

        SYNONYMS: ClassVar[dict[str, str]] = {
            **CloudConfig.SYNONYMS,
            "credentials": "service_account",
        }

    scheme: ClassVar[str] = "gs"

    def _endpoint(self, config: CloudConfig) -> str:
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        if emulator and "://" not in emulator:
            emulator = f"http://{emulator}"
        return config.endpoint or emulator

    def _open(
        self, config: Config, endpoint: str, client: ClientConfig, retries: RetryConfig
    ) -> ObjectStore:
        is_google = bool(config.service_account) or not endpoint.startswith("http://")
        settings: dict[str, Any] = {
            "base_url": endpoint,
            "service_account": config.service_account,
        }
        return self._library.store.GCSStore(
            self._bucket,
            config={name: value for name, value in settings.items() if value},
            client_options=client,
            retry_config=retries,
            # Google's own tools, too, send an emulator no credentials.
            credential_provider=None if is_google else _no_credential,
        )


class AzureObjects(CloudObjects):
    """Objects in Azure Blob Storage. Any thread may call it.

    Credentials that the configuration does not name come from where Azure's own tools look: the
    variables AZURE_STORAGE_…, a workload identity, the managed identity of the instance.
    """

    @dataclass(frozen=True)
    class Config(CloudConfig):
        """Options.

        Attributes
        ----------
        account_name
            The storage account.
        account_key, sas_token, connection_string
            Credentials; give one of them.
        """

        account_name: str = ""
        account_key: str = field(default="", repr=False)
        sas_token: str = field(default="", repr=False)
        connection_string: str = field(default="", repr=False)

        SYNONYMS: ClassVar[dict[str, str]] = {
            **CloudConfig.SYNONYMS,
            "container": "bucket_name",
            "container_name": "bucket_name",
            "access_key": "account_name",
            "secret_key": "account_key",
        }

    scheme: ClassVar[str] = "az"
    #: An account with a hierarchical namespace lists folder by folder.
    is_ordered: ClassVar[bool] = False

    def _endpoint(self, config: Any) -> str:
        return config.endpoint or _connection(config).get("BlobEndpoint", "")

    def _open(
        self, config: Config, endpoint: str, client: ClientConfig, retries: RetryConfig
    ) -> ObjectStore:
        connection = _connection(config)
        account = config.account_name or connection.get("AccountName")
        key = config.account_key or connection.get("AccountKey")
        signature = config.sas_token or connection.get("SharedAccessSignature")
        if not key and not signature:
            key = os.environ.get("AZURE_STORAGE_KEY")
        kind = "access_key" if key else "sas_token" if signature else ""
        settings: dict[str, Any] = {
            "endpoint": endpoint,
            "account_name": account or os.environ.get("AZURE_STORAGE_ACCOUNT"),
            "account_key": key,
            "sas_key": signature,
            # What is given here goes before other credentials in the environment.
            "credential_type": kind,
        }
        return self._library.store.AzureStore(
            self._bucket,
            config={name: value for name, value in settings.items() if value},
            client_options=client,
            retry_config=retries,
        )


def _no_credential() -> GCSCredential:
    return {"token": "none", "expires_at": None}


def _connection(config: AzureObjects.Config) -> Mapping[str, str]:
    """Return the parts of a connection string, of the environment if no credentials are given."""
    text = config.connection_string
    if not (text or config.account_name or config.account_key or config.sas_token):
        text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    parts = (part.partition("=") for part in text.split(";"))
    return {name.strip(): value.strip() for name, equals, value in parts if equals}
