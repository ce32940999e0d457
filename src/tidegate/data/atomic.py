"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tidegate.errors import TidegateError

# What the system calls each failure, in a person's words.
_WHY = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the size allowed",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the disk is read-only",
    errno.ENAMETOOLONG: "the file name is too long",
    errno.ENOTDIR: "part of the path is not a folder",
}


def why(error: OSError) -> str:
    """The reason of a failure of the system, in words; polars has its number in the text alone."""
    number = error.errno or int((re.findall(r"\(os error (\d+)\)", str(error)) or [0])[0])
    text = _WHY.get(number) or error.strerror or str(error)
    return text[:1].lower() + text[1:]


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file that replaces ``path`` only when it is whole and on the disk.

    The bytes go to a hidden file in the same folder, which takes the name at the end. On any
    error, an interrupt included, the hidden file is removed and what stood at ``path`` stays.

    Parameters
    ----------
    path : str or Path
        The file to make or replace. Its folder must exist. A device or pipe is written to directly.

    Yields
    ------
    BinaryIO
        A seekable file, open for writing and reading.

    Raises
    ------
    TidegateError
        When the folder is missing, or the disk is full, read-only or fails.

    Examples
    --------
    >>> with atomic_write("scores.json") as file:
    ...     file.write(b"{}")
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.is_dir():
        raise TidegateError(f"cannot write {path}: it is a folder; name a file in it")
    if target.exists() and not target.is_file():
        with open(target, "wb") as device:
            yield device
        return
    if not target.parent.is_dir():
        raise TidegateError(f"cannot write {path}: the folder {target.parent} does not exist")
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(beside, "xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(beside, target.stat().st_mode & 0o7777)
        os.replace(beside, target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise TidegateError(f"cannot write {path}: {why(error)}; nothing was changed") from None
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
