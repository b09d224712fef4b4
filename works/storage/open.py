"""Which store a URL means: a folder of this machine, or a bucket of an object store."""

from pathlib import Path

from works.storage.address import KNOWN, StoreOptions, address_of, driver_for
from works.storage.results import ResultStore
from works.storage.results_folder import FolderResults
from works.storage.uploads_folder import FolderUploads
from works.storage.uploads_store import UploadStore


def open_results(url: str, options: StoreOptions | None = None, *, make: bool = True) -> ResultStore:
    """The store of results of a URL. `make`: its folder is made where it is not there.

    Raises ValueError for an unknown scheme, OSError for a folder that cannot be made.
    """
    if address_of(url):
        with driver_for(url):
            from works.storage.results_bucket import BucketResults
        return BucketResults(url, options or StoreOptions())
    return FolderResults(folder_of(url, "media", make=make))


def open_upload_store(url: str, options: StoreOptions, spool: Path) -> UploadStore:
    """The store of uploads of a URL. `spool`: the folder for what is on its way to an object store.

    Raises ValueError for a URL of an unknown kind, OSError for a folder that cannot be made.
    """
    if address_of(url):
        with driver_for(url):
            from works.storage.uploads_bucket import BucketUploads
        spool.mkdir(parents=True, exist_ok=True)
        return BucketUploads(url, options, spool.resolve())
    return FolderUploads(folder_of(url, "uploads"))


def folder_of(url: str, what: str, *, make: bool = True) -> Path:
    """The folder of a URL `file:FOLDER`, made where it is not there unless `make` is false. Raises ValueError."""
    scheme, _, path = url.partition(":")
    if scheme != "file" or not path:
        raise ValueError(f"{what} {url!r}: unknown; use file:FOLDER, {KNOWN}")
    folder = Path(path.removeprefix("//")).resolve()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder
