"""The settings of stored files: where results and uploads are, how long they are retained, and the object store."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from works.settings import MIB, Count, Seconds, SettingsGroup, check_web_address

_REMOTE = ("s3://", "gs://", "az://")


class ResultSettings(SettingsGroup):
    """Where results are stored, and for how long."""

    media: str = Field(
        "file:media",
        description="Where results are stored: file:FOLDER, or an object store (s3://BUCKET/PREFIX, gs:// or az://).",
    )
    media_ttl: Seconds = Field(24 * 3600, description="Seconds that a result is retained.")
    media_bytes: Count = Field(
        10 << 30, description="Maximum number of bytes of all results. The oldest results beyond it are deleted."
    )
    store_lifetime: Literal["sweep", "bucket"] = Field(
        "sweep",
        description="Who deletes old results in an object store: sweep (this server) or bucket (a lifecycle rule "
        "of the bucket).",
    )

    @property
    def is_remote(self) -> bool:
        return self.media.startswith(_REMOTE)


class UploadSettings(SettingsGroup):
    """Where uploads are stored, their limits, and how long they are retained."""

    uploads: str | None = Field(
        None, description="Where uploads are stored. Unset: file:var/uploads, or uploads/ in the bucket of media."
    )
    spool: str = Field("var/spool", description="Folder for uploads that are not yet in the object store.")
    upload_bytes: Count = Field(32 * MIB, description="Maximum number of bytes of one upload.")
    upload_bytes_per_user: Count = Field(
        1 << 30, description="Maximum number of bytes of all uploads of one user that are retained."
    )
    upload_bytes_total: Count = Field(
        10 << 30, description="Maximum number of bytes of all uploads of all users that are retained."
    )
    uploads_per_user: Count = Field(4, description="Maximum number of uploads of one user at the same time.")
    upload_timeout: Seconds = Field(300, description="Seconds to receive one upload. More helps slow clients.")
    upload_grace: Seconds = Field(3600, description="Seconds that an upload is retained while no message refers to it.")
    upload_ttl: Seconds = Field(
        30 * 24 * 3600, description="Seconds that an upload is retained after the last message that refers to it."
    )

    def url(self, results: ResultSettings) -> str:
        """Returns the URL of the upload store.

        By default uploads are in the same bucket as results. Then one setting is enough for several servers to share
        both.
        """
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
    """How to connect to the object store of results and uploads."""

    store_endpoint: str | None = Field(None, description="URL of the object store. Unset: the provider's own.")
    store_public_endpoint: str | None = Field(
        None, description="URL of the object store as clients reach it. Unset: store_endpoint."
    )
    store_region: str | None = Field(
        None, description="Region of the bucket. Unset: the provider's environment variable."
    )
    store_key: str | None = Field(
        None, description="Access key, or Azure account name. Unset: the provider's environment variables."
    )
    store_secret: SecretStr | None = Field(
        None, description="Secret of store_key. Unset: the provider's environment variables."
    )
    store_timeout: Seconds = Field(
        4, description="Seconds for one request to the object store. Must be less than half of slice_timeout."
    )

    _web_address = field_validator("store_endpoint", "store_public_endpoint")(check_web_address)
