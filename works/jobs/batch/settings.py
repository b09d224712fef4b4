"""The settings of the job kind `batch`: limits of its input and output."""

from pydantic import Field

from works.settings import Count, SettingsGroup


class BatchSettings(SettingsGroup):
    """Limits of the job kind batch."""

    batch_pictures: Count = Field(
        10_000, description="Maximum number of pictures of a batch, and most entries of a zip file."
    )
    batch_bytes: Count = Field(
        4 << 30,
        description="Maximum number of bytes of the results of a batch. They wait on the disk until the batch ends.",
    )
    archive_bytes: Count = Field(
        4 << 30,
        description="Maximum number of bytes that a zip file may unpack to. A larger one is refused as a zip bomb.",
    )
    archive_ratio: Count = Field(
        100,
        description="Maximum number of times that a file in a zip may grow when it is unpacked. Pictures hardly grow.",
    )
    sheet_pages: int = Field(
        40,
        ge=0,
        description="Maximum number of pages of a contact sheet. Each has 48 pictures. With 0, there is no sheet.",
    )
