"""Reading tables: what is read, and the sentence for each thing that is not one."""

import csv
import gzip
import io
import random
import re
import subprocess
import sys

import pandas as pd
import polars as pl
import pytest

from tidegate.data import read_table
from tidegate.errors import DataError


def parquet(frame):
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


TORN = gzip.compress(random.Random(0).randbytes(9999), mtime=0)[:500]
WHOLE = parquet(pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"a,b\n1,2\n3,4", {"a": [1, 3], "b": [2, 4]}),
        ("a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n", {"a": [1], "b": [2]}),
        ("a.tsv", b"a\tb\n1\t2,5\n", {"a": [1], "b": ["2,5"]}),
        ("a.txt", b"a|b\n1|2\n", {"a": [1], "b": [2]}),
        ("a.csv", b"a;b\n1,5;2\n-0,25;3\n", {"a": [1.5, -0.25], "b": [2, 3]}),
        ("a.csv", b"a;b\nNA;2\n-0,126;3\n,5e-3;-\n", {"a": ["NA", "-0.126", ".5e-3"], "b": ["2", "3", "-"]}),
        ("a.csv", b"a;b\n1,5;1,2,3\n2,5;x,5\n", {"a": [1.5, 2.5], "b": ["1,2,3", "x,5"]}),
        ("a.csv", b"a;b\n1.5;x,y\n", {"a": [1.5], "b": ["x,y"]}),
        ("a.csv", b'a,"b,c"\n1,"x,y"\n2,"p\nq"\n', {"a": [1, 2], "b,c": ["x,y", "p\nq"]}),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), {"a": [1], "b": [2]}),
        ("a.csv", b"a,b\n1,2\n\n3,4\n", {"a": [1, None, 3], "b": [2, None, 4]}),
        ("a[1]*.csv", b"a\n1\n", {"a": [1]}),
        ("a.csv", b"a\n" + b"1\n" * 20_000 + b"oops\n", {"a": ["1"] * 20_000 + ["oops"]}),
        ("a.parquet", WHOLE, {"a": [1, 2], "b": ["x", "y"]}),
        ("a.data", WHOLE, {"a": [1, 2], "b": ["x", "y"]}),
    ],
)
def test_reads(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert read_table(tmp_path / name).to_dict(as_series=False) == expected
    last = list(expected)[-1]
    assert read_table(str(tmp_path / name), [last, last]).to_dict(as_series=False) == {last: expected[last]}


def test_cells_may_be_long(tmp_path):
    document = "tide, " * 50_000
    (tmp_path / "a.csv").write_text(f'a,b\n1,"{document}"\n')
    before = csv.field_size_limit()
    assert read_table(tmp_path / "a.csv")["b"].to_list() == [document]
    assert csv.field_size_limit() == before


def test_text_with_commas_stays_as_it_is(tmp_path):
    (tmp_path / "a.csv").write_text("id;b\n1,5;0,5\nNA;NA\n")
    assert read_table(tmp_path / "a.csv", text=["id"]).rows() == [("1,5", "0.5"), ("NA", "NA")]


def test_text_columns_keep_their_zeros(tmp_path):
    (tmp_path / "a.csv").write_text("id,b\n007,1\n")
    assert read_table(tmp_path / "a.csv", text=["id"])["id"].to_list() == ["007"]


@pytest.mark.parametrize(
    ("name", "content", "columns", "sentence"),
    [
        ("a.csv", b"", None, "PATH is empty: it has zero bytes"),
        ("a.csv", b"\n \n", None, "PATH is empty: it holds no text"),
        ("a.csv", b"a,b\n", None, "PATH is an empty table: it has columns but no rows"),
        ("a.parquet", parquet(pl.DataFrame({"a": []})), None, "PATH is an empty table: it has columns but no rows"),
        ("a.csv", b"a,b\n1,2\n3\n", ["a"], "PATH is not a regular table: line 3 has 1 field, the header has 2"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", ["a"], "PATH is not a regular table: line 3 has 3 fields, the header has 2"),
        ("a.csv", b"a,b\n3,4,5\n6\n", ["a"], "PATH is not a regular table: line 2 has 3 fields, the header has 2"),
        (
            "a.csv",
            b"a,b\n1,1,5\n2,2,5\n",
            None,
            "PATH is not a regular table: line 2 has 3 fields, the header has 2; where numbers have decimal commas, "
            "separate the columns by semicolons",
        ),
        ("a.csv", b"a;b\n1;2\n1;2;5\n", None, "PATH is not a regular table: line 3 has 3 fields, the header has 2"),
        ("a.csv", b'a,b\n"1,2\n3,4\n', None, "PATH is not a regular table: line 3 has 1 field, the header has 2"),
        ("a.csv", bytes(range(256)), None, "PATH is not a table: it holds binary data, neither CSV nor Parquet"),
        (
            "a.xlsx",
            b"PK\x03\x04\0\0",
            None,
            "PATH is not a table: it holds binary data, neither CSV nor Parquet (save a spreadsheet as CSV)",
        ),
        ("a.csv", "a\n1\n".encode("utf-16"), None, "PATH is UTF-16 text; save it as UTF-8"),
        ("a.csv", b"a\n1\n\xe9\n", None, "cannot read PATH as CSV: line 3 is not UTF-8 text; save it as UTF-8"),
        ("a.csv", b"a,\xe9\n1,2\n", ["b"], "cannot read PATH as CSV: line 1 is not UTF-8 text; save it as UTF-8"),
        ("a.csv.gz", TORN, None, "cannot read PATH: the file ends too early"),
        ("a.parquet", b"a,b\n1,2\n", None, "PATH is not a Parquet file; if it holds CSV, let its name end in .csv"),
        ("a.csv", b"a,b,a\n1,2,3\n", ["a"], "PATH has more than one column named 'a'; rename one of them"),
        (
            "a.csv",
            b"temp,dewp\n1,2\n",
            ["tmp"],
            "PATH has no column 'tmp'; did you mean 'temp'? Its columns are: temp, dewp",
        ),
        ("a.csv", b"a,b\n1,2\n", ["xyzzy"], "PATH has no column 'xyzzy'. Its columns are: a, b"),
        ("a.parquet", WHOLE, ["B"], "PATH has no column 'B'; did you mean 'b'? Its columns are: a, b"),
    ],
)  # fmt: skip
def test_what_is_not_a_table(tmp_path, name, content, columns, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(path, columns)
    assert str(caught.value) == sentence.replace("PATH", str(path))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("damage", [WHOLE[:100], WHOLE[:-20], b"PAR1" + WHOLE[50:], b"PAR1junk"])
def test_damaged_parquet(tmp_path, damage):
    (tmp_path / "a.parquet").write_bytes(damage)
    with pytest.raises(DataError, match=r"a\.parquet is a damaged Parquet file: "):
        read_table(tmp_path / "a.parquet")


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "weather.csv").write_text("a\n1\n")
    close = f"no such file: {tmp_path}/wheather.csv; did you mean {tmp_path}/weather.csv?"
    with pytest.raises(DataError, match=f"^{re.escape(close)}$"):
        read_table(tmp_path / "wheather.csv")
    with pytest.raises(DataError, match=f"^no such file: {tmp_path}/zzz$"):
        read_table(tmp_path / "zzz")
    with pytest.raises(DataError, match=rf"\(there is no folder {tmp_path}/no\)$"):
        read_table(tmp_path / "no" / "a.csv")
    with pytest.raises(DataError, match=f"^{tmp_path} is a folder; name a CSV or Parquet file$"):
        read_table(tmp_path)


def test_pandas():
    index = pd.date_range("2020-01-01", periods=2, tz="Europe/Berlin", name="when")
    frame = read_table(pd.DataFrame({"a": [1.5, None], "b": pd.Categorical(["x", "y"])}, index=index))
    assert frame.columns == ["when", "a", "b"]
    assert frame["a"].to_list() == [1.5, None]
    assert str(frame["when"][1]) == "2020-01-02 00:00:00+01:00"
    many = pd.DataFrame({"y": [1, 2]}, index=pd.MultiIndex.from_tuples([("u", 1), ("v", 2)], names=["s", "t"]))
    assert read_table(many, ["t", "s"]).to_dict(as_series=False) == {"t": [1, 2], "s": ["u", "v"]}
    nameless = read_table(pd.DataFrame({"a": [1]}, index=pd.period_range("2020-03", periods=1, freq="M")))
    assert str(nameless["time"][0]) == "2020-03-01 00:00:00"
    assert read_table(pd.DataFrame({"a": [1, "x", None]}))["a"].to_list() == ["1", "x", None]
    with pytest.raises(DataError, match="^the data frame has no column 'A'; did you mean 'a'"):
        read_table(many.rename(columns={"y": "a"}), ["A"])


WITHOUT_PYARROW = """
import importlib.machinery as machinery, sys
find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *more: None if name.split(".")[0] == "pyarrow" else find(name, *more)
)
"""
EVERY_KIND = """
import datetime as dt
import pandas as pd, polars as pl
from tidegate.data.table import as_given, read_table
times = pd.to_datetime(["2020-01-01 03:00", None])
table = pd.DataFrame({
    "i": [1, 2], "f": [1.5, None], "I": pd.Series([1, None], dtype="Int64"), "b": [True, False],
    "s": ["é", None], "o": pd.Series(["a", None], dtype=object), "n": pd.Series([1, 2.5], dtype=object),
    "c": pd.Categorical(["x", None]), "t": times, "z": times.tz_localize("Europe/Berlin"),
    "d": [dt.date(2020, 1, 1), None],
})
frame = read_table(table)
moment = dt.datetime(2020, 1, 1, 3)
assert frame.select(pl.exclude("z")).rows() == [
    (1, 1.5, 1, True, "é", "a", 1.0, "x", moment, dt.date(2020, 1, 1)),
    (2, None, None, False, None, None, 2.5, None, None, None),
], frame.rows()
assert frame["z"].dtype == pl.Datetime("us", "Europe/Berlin")
assert frame["z"][0].replace(tzinfo=None) == moment and frame["z"][1] is None
back = as_given(frame, table)
kinds = [str(kind) for kind in back.dtypes]
assert kinds[:4] == ["int64", "float64", "float64", "bool"] and kinds[6:] == [
    "float64", "category", "datetime64[us]", "datetime64[us, Europe/Berlin]", "datetime64[ms]"
], kinds
for name in table:
    assert back[name].isna().tolist() == table[name].isna().tolist(), name
    assert back[name][0] == (pd.Timestamp(table[name][0]) if name == "d" else table[name][0]), name
print("pyarrow" in sys.modules)
"""


def test_pandas_needs_no_pyarrow():
    for script, found in ((WITHOUT_PYARROW + EVERY_KIND, "False"), ("import sys\n" + EVERY_KIND, None)):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert found in (None, done.stdout.strip())


def test_polars_and_others():
    frame = pl.DataFrame({"a": [1], "b": [2]})
    assert read_table(frame, ["b"]).columns == read_table(frame.lazy(), ["b"]).columns == ["b"]
    with pytest.raises(DataError, match="^the data frame is an empty table"):
        read_table(frame.clear())
    with pytest.raises(TypeError, match="^a table is a path or a pandas or polars data frame; given list$"):
        read_table([1])
