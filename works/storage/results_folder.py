"""Results in a folder of this machine. A file is written under a temporary name and renamed."""

import errno
import os
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from works.storage.results import NAME, new_name

# Seconds after which a temporary file is deleted. Its writer must have been killed.
_ABANDONED = 30.0


@dataclass(frozen=True, slots=True)
class FolderResults:
    """A ResultStore in a folder."""

    folder: Path

    @property
    def url(self) -> str:
        return f"file:{self.folder}"

    @property
    def place(self) -> Path:
        return self.folder

    def put(self, data: bytes, suffix: str) -> str:
        name = new_name(suffix)
        part = f"{self.folder}/.{name}.part"  # pathlib takes twice as long here
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.rename(part, f"{self.folder}/{name}")
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise
        return name

    def put_file(self, path: Path, suffix: str) -> str:
        """As in ResultStore. Raises OSError."""
        name = new_name(suffix)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        # The file gets the permissions of the folder, because a web server in front may run as another user.
        mode = 0o666 & self.folder.stat().st_mode
        path.chmod(mode)
        os.utime(path)
        try:
            path.rename(self.folder / name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(path, name, mode)
        return name

    def _copy(self, path: Path, name: str, mode: int) -> None:
        """Copies a file from another file system, where a rename is not possible."""
        part = self.folder / f".{name}.part"
        try:
            shutil.copyfile(path, part)
            part.chmod(mode)
            part.rename(self.folder / name)
            path.unlink()
        except OSError:
            part.unlink(missing_ok=True)
            self.delete(name)
            raise

    def path(self, name: str) -> Path:
        """Returns the path of a result. Raises FileNotFoundError for an invalid name."""
        if not NAME.fullmatch(name):
            raise FileNotFoundError(name)
        return self.folder / name

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def sweep(self, max_age: float, max_bytes: int) -> int:
        now, gone, kept = time.time(), 0, []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.name.endswith(".part"):
                    if now - stat.st_mtime > _ABANDONED:
                        Path(entry.path).unlink(missing_ok=True)
                elif NAME.fullmatch(entry.name):
                    kept.append((stat.st_mtime, stat.st_size, entry.path))
        total = sum(size for _, size, _ in kept)
        for modified, size, path in sorted(kept):
            if now - modified <= max_age and total <= max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
            gone += 1
        return gone

    def check(self) -> None:
        self.delete(self.put(b"?", ".png"))
