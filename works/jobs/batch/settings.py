"""The settings of the job `batch`: how much it may read and make."""

from pydantic import Field

from works.settings import Count, SettingsGroup


class BatchSettings(SettingsGroup):
    batch_pictures: Count = Field(10_000, description="pictures of a batch, and entries of a zip")
    batch_bytes: Count = Field(4 << 30, description="bytes of a batch's results; they wait on the disk until its end")
    archive_bytes: Count = Field(4 << 30, description="bytes that a zip may unpack to; more is taken for a bomb")
    archive_ratio: Count = Field(100, description="times that a picture in a zip may grow; pictures hardly do")
    sheet_pages: int = Field(40, ge=0, description="pages of a contact sheet, of 48 pictures each")
