"""The settings of files: where results and uploads are kept, for how long, and how an object store is reached."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from works.settings import MIB, Count, Seconds, SettingsGroup, check_web_address

_REMOTE = ("s3://", "gs://", "az://")


class ResultSettings(SettingsGroup):
    media: str = Field("file:media", description="where results are kept")
    media_ttl: Seconds = Field(24 * 3600, description="seconds that results are kept")
    media_bytes: Count = Field(10 << 30, description="bytes of results that are kept")
    store_lifetime: Literal["sweep", "bucket"] = Field(
        "sweep", description="who deletes old results in a bucket: this server, or a rule of the bucket's"
    )

    @property
    def is_remote(self) -> bool:
        return self.media.startswith(_REMOTE)


class UploadSettings(SettingsGroup):
    uploads: str | None = Field(
        None, description="where uploads are kept; unset: in file:var/uploads, or in the bucket of media under uploads/"
    )
    spool: str = Field("var/spool", description="folder for uploads on their way to an object store")
    upload_bytes: Count = Field(32 * MIB, description="bytes of one upload")
    upload_bytes_per_user: Count = Field(1 << 30, description="bytes of a user's uploads that are kept")
    upload_bytes_total: Count = Field(10 << 30, description="bytes of all uploads that are kept")
    uploads_per_user: Count = Field(4, description="uploads of a user under way at once")
    upload_timeout: Seconds = Field(300, description="seconds for an upload to come in")
    upload_grace: Seconds = Field(3600, description="seconds that an upload is kept which no message refers to")
    upload_ttl: Seconds = Field(30 * 24 * 3600, description="seconds that an upload is kept which a message refers to")

    def url(self, results: ResultSettings) -> str:
        """Where uploads are kept: beside results in an object store, so that one setting is enough for many servers to
        share both."""
        if self.uploads:
            return self.uploads
        if not results.is_remote:
            return "file:var/uploads"
        scheme, _, path = results.media.partition("://")
        bucket, _, prefix = path.strip("/").partition("/")
        return f"{scheme}://{bucket}/uploads/{prefix}".rstrip("/")

    @property
    def is_remote(self) -> bool:
        return (self.uploads or "").startswith(_REMOTE)

    @property
    def spool_path(self) -> Path:
        return Path(self.spool)


class StoreSettings(SettingsGroup):
    """How the object store of results and uploads is reached, where they are in one."""

    store_endpoint: str | None = Field(None, description="address of the object store, unless its provider's own")
    store_public_endpoint: str | None = Field(None, description="by which address clients reach it, if by another")
    store_region: str | None = Field(None, description="region of the bucket")
    store_key: str | None = Field(None, description="access key, or Azure account; unset: the provider's variables")
    store_secret: SecretStr | None = Field(None, description="secret access key, or what the provider has for one")
    store_timeout: Seconds = Field(
        4, description="seconds for one request to the object store; twice that must be less than slice_timeout"
    )

    _web_address = field_validator("store_endpoint", "store_public_endpoint")(check_web_address)
