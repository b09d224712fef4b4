"""Opens the store of a URL: a folder of this machine, or a bucket of an object store."""

from pathlib import Path

from works.storage.address import KNOWN, StoreOptions, address_of, driver_for
from works.storage.results import ResultStore
from works.storage.results_folder import FolderResults
from works.storage.uploads_folder import FolderUploads
from works.storage.uploads_store import UploadStore


def open_results(url: str, options: StoreOptions | None = None, *, make: bool = True) -> ResultStore:
    """Returns the store of results at this URL. `make`: creates a missing folder.

    Raises:
        ValueError: the URL has an unknown scheme.
        OSError: the folder cannot be created.
    """
    if address_of(url):
        with driver_for(url):
            from works.storage.results_bucket import BucketResults
        return BucketResults(url, options or StoreOptions())
    return FolderResults(folder_of(url, "media", make=make))


def open_upload_store(url: str, options: StoreOptions, spool: Path) -> UploadStore:
    """Returns the store of uploads at this URL. `spool`: the folder for uploads that are not yet in the object store.

    Raises:
        ValueError: the URL has an unknown scheme.
        OSError: a folder cannot be created.
    """
    if address_of(url):
        with driver_for(url):
            from works.storage.uploads_bucket import BucketUploads
        spool.mkdir(parents=True, exist_ok=True)
        return BucketUploads(url, options, spool.resolve())
    return FolderUploads(folder_of(url, "uploads"))


def folder_of(url: str, what: str, *, make: bool = True) -> Path:
    """Returns the folder of a URL `file:FOLDER`. Creates it when it is missing and `make` is true. Raises
    ValueError.
    """
    scheme, _, path = url.partition(":")
    if scheme != "file" or not path:
        raise ValueError(f"{what} {url!r}: unknown; use file:FOLDER, {KNOWN}")
    folder = Path(path.removeprefix("//")).resolve()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder
