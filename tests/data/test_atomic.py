"""A file appears whole or not at all."""

import os
import resource
import signal

import polars as pl
import pytest

from tidegate.data import atomic_write, read_table, write_table
from tidegate.errors import TidegateError


def test_replaces_the_file_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.fixture
def little_disk():
    """No file may grow beyond 64 KiB: the system fails as a full disk does, in the middle of a write."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_disk_that_fills_leaves_no_half_file(tmp_path, little_disk, ending):
    path = tmp_path / f"out.{ending}"
    frame = pl.DataFrame({"x": [str(i) * 3 for i in range(100_000)]})
    with pytest.raises(TidegateError, match="^cannot write .*out.*nothing was changed$") as caught:
        write_table(frame, path)
    assert str(caught.value) == f"cannot write {path}: the file would exceed the size allowed; nothing was changed"
    assert os.listdir(tmp_path) == []


def test_no_space_is_said_in_words(tmp_path):
    said = "no space is left on the disk; nothing was changed$"
    with pytest.raises(TidegateError, match=said), atomic_write(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_missing_folder_and_folder(tmp_path):
    with pytest.raises(TidegateError, match="the folder .*no does not exist$"), atomic_write(tmp_path / "no" / "a"):
        pass
    with pytest.raises(TidegateError, match="it is a folder; name a file in it$"), atomic_write(tmp_path):
        pass


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    os.chmod(tmp_path / "real", 0o640)
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_a_device_is_not_replaced():
    with atomic_write("/dev/null") as file:
        file.write(b"x")
    assert not os.path.isfile("/dev/null")


def test_written_tables_read_back(tmp_path):
    frame = pl.DataFrame({"t": ["2020-01-01T00:00:00", "2020-01-01T00:00:00.5"], "x": [1.5, None]})
    frame = frame.with_columns(pl.col("t").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us"))
    write_table(frame, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").equals(frame)
    write_table(frame.with_columns(pl.col("t").dt.replace_time_zone("Asia/Tokyo")), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "t,x\n2019-12-31T15:00:00.000000Z,1.5\n2019-12-31T15:00:00.500000Z,\n"
    write_table(frame.select(pl.col("t").dt.truncate("1d")), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "t\n2020-01-01\n2020-01-01\n"
    with pytest.raises(TidegateError, match=r"ends in \.csv or \.parquet$"):
        write_table(frame, tmp_path / "a.xls")
