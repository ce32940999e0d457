"""Plain text as bytes: a file, a folder of files, or bytes in memory.

N bytes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.data.atomic import why
from tidegate.errors import DataError

BYTES = 256  # that a text is made of
RUN = ("config.toml", "data.json")  # what every run folder holds
PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
}


@dataclass(frozen=True)
class Text:
    """Files on end.

    Attributes
    ----------
    data : (N,) uint8
    files : list of str
        Their names; empty for bytes in memory.
    starts : (F,) int64
        Where each begins.
    notes : list of str
        For a person.
    """

    data: np.ndarray
    files: list[str] = field(default_factory=list)
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def folder(self) -> bool:
        """Several files."""
        return len(self.starts) > 1

    def lines(self) -> np.ndarray:
        """Where each line begins, (R,); a file's first line begins with the file."""
        after = np.flatnonzero(self.data == ord("\n")) + 1
        return np.unique(np.concatenate([self.starts, after[after < len(self.data)]]))


def read_text(source: Any) -> Text:
    """Read text as it stands: no byte is changed.

    Parameters
    ----------
    source : path of a file or of a folder, bytes, or (N,) uint8
        A folder's files are joined in the order of their paths; hidden ones and runs of tidegate are left
        out. Files that end in .xz, .gz or .bz2 are unpacked.

    Raises
    ------
    DataError
        If there is nothing there, or nothing in it.
    """
    if isinstance(source, Text):
        return source
    if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim == 1:
        source = source.tobytes()
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        if not data:
            raise DataError("the text is empty: it has zero bytes")
        return Text(np.frombuffer(data, np.uint8), notes=[about(data)])
    if not isinstance(source, str | Path):
        raise DataError(
            f"a text is the path of a file or of a folder, or bytes; given {type(source).__name__} "
            "(a text in memory: text.encode())"
        )
    _refuse_text(source)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"no such file: {path}" if len(str(path)) < 200 else "no such file; a text in memory is bytes")
    if not path.is_dir():
        data = _read(path)
        if not data:
            raise DataError(f"{path} is empty: it has zero bytes")
        return Text(np.frombuffer(data, np.uint8), [path.name], notes=[about(data)])
    names = sorted(p.relative_to(path).as_posix() for p in files_in(path))
    if not names:
        raise DataError(f"the folder {path} holds no file to read")
    parts = [_read(path / name) for name in names]
    data = b"".join(parts)
    if not data:
        raise DataError(f"the {len(names)} files in {path} are empty: they have zero bytes")
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])[:-1]]).astype(np.int64)
    keep = np.array([len(part) > 0 for part in parts])
    files = [name for name, kept in zip(names, keep, strict=True) if kept]
    said = f"{len(names):,} files in the order of their paths, {names[0]} first; {about(data)}"
    return Text(np.frombuffer(data, np.uint8), files, starts[keep], [said])


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and in those within, sorted; without hidden ones and those of tidegate's own runs."""
    paths = [p for p in sorted(folder.rglob("*")) if not any(n.startswith(".") for n in p.relative_to(folder).parts)]
    runs = {p.parent for p in paths if p.name == RUN[0] and (p.parent / RUN[1]).is_file()} - {folder}
    return [p for p in paths if p.is_file() and runs.isdisjoint(p.parents)]


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {why(error)}") from None
    unpack = PACKED.get(path.suffix.lower())
    if unpack is None or not data:
        return data
    try:
        return unpack(data)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); restore it, or give it another ending") from None


def characters(data: np.ndarray) -> int:
    """How many UTF-8 characters: all bytes but those that continue one."""
    return int(np.count_nonzero((data & 0xC0) != 0x80))


def about(data: bytes) -> str:
    """Size and kind, for a person."""
    array = np.frombuffer(data, np.uint8)
    kinds = len(np.unique(array))
    try:
        data.decode()
        kind = f"{characters(array):,} characters of UTF-8"
    except UnicodeDecodeError:
        kind = "not UTF-8, taken as bytes"
    return f"{len(data):,} bytes, {kinds} different ones, {kind}"


def _refuse_text(source: str | Path) -> None:
    """A text in place of its path, before the system refuses it as a name."""
    name = str(source)
    if (len(name) >= 200 or not name.isprintable()) and not os.path.exists(os.path.expanduser(name)):
        raise DataError(
            f"a text is the path of a file or of a folder, or bytes; given a {type(source).__name__} of {len(name):,} "
            "characters that names no file (a text in memory: text.encode())"
        )
