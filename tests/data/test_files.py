"""Rows in files: the fit of the same rows in memory, whatever the format; and files that can't be read, or change."""

import os

import jax
import numpy as np
import pandas as pd
import pytest
import zarr

import jaxgmm as jg
from jaxgmm.data import Processes, scan
from jaxgmm.tools.threads import ahead

KEY = jax.random.key(0)
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(900, 3)), rng.normal(size=(600, 3)) + 5])


@pytest.fixture
def frame(x):
    return pd.DataFrame(x, columns=NAMES)


@pytest.fixture(scope="module")
def in_memory(x):
    return jg.fit(x, 2, key=KEY, n_init=2)


def parquet(frame, folder):
    frame.to_parquet(folder / "rows.parquet", row_group_size=400)
    return folder / "rows.parquet"


def several(frame, folder):
    for i in range(3):
        frame.iloc[i * 500 : (i + 1) * 500].to_parquet(folder / f"rows{i}.parquet")
    (folder / "_SUCCESS.csv").write_text("left by Spark\n")
    return folder


def csv(frame, folder):
    frame.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def zipped(frame, folder):
    frame.to_csv(folder / "rows.csv.gz", index=False)
    return [folder / "rows.csv.gz"]


def feather(frame, folder):
    frame.to_feather(folder / "rows.feather")
    return folder / "rows.feather"


def npy(frame, folder):
    np.save(folder / "rows.npy", frame.to_numpy())
    return folder / "rows.npy"


def zarr_array(frame, folder):
    zarr.create_array(str(folder / "rows.zarr"), data=frame.to_numpy(), chunks=(512, 3))
    return str(folder / "rows.zarr")


def mapped(frame, folder):
    return np.load(npy(frame, folder), mmap_mode="r")


WAYS = {
    "parquet": parquet, "folder": several, "pattern": lambda *at: several(*at) / "rows*.parquet", "csv": csv, "gz": zipped,
    "feather": feather, "npy": npy, "zarr": zarr_array, "sliced": mapped, "address": lambda *at: parquet(*at).as_uri(),
    "folder's address": lambda *at: several(*at).as_uri(),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_is_that_of_the_rows_in_memory(way, frame, x, in_memory, tmp_path):
    rows = scan(WAYS[way](frame, tmp_path), rows_a_piece=512)
    assert [len(piece) for piece, _ in rows.parts()] == [512, 512, 476]
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in rows.parts()]), x)
    assert rows.feature_names in (tuple(NAMES), None)
    fit = jg.fit(rows, 2, key=KEY, n_init=2)
    assert fit.fingerprint == in_memory.fingerprint
    np.testing.assert_allclose(fit.trace, in_memory.trace, rtol=1e-10)


def test_columns_are_chosen_and_weights_are_read(frame, x, tmp_path):
    weight = np.random.default_rng(1).integers(0, 3, len(x)).astype(float)
    table = frame.assign(note="text", weight=weight)[["note", "c", "weight", "a"]]
    table.to_parquet(tmp_path / "rows.parquet", row_group_size=300)
    rows = scan(tmp_path / "rows.parquet", ["a", "c"], sample_weight="weight")
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in rows.parts()]), x[:, [0, 2]])
    np.testing.assert_array_equal(np.concatenate([own for _, own in rows.parts()]), weight)
    assert (rows.n_samples, rows.n_present, rows.total_weight) == (len(x), np.count_nonzero(weight), weight.sum())


def test_columns_are_put_in_the_order_of_a_start(frame, x, tmp_path):
    start = jg.fit(frame, 2, key=KEY, n_init=1)
    frame[["c", "a", "b"]].to_parquet(tmp_path / "rows.parquet")
    again = jg.fit(scan(tmp_path / "rows.parquet"), init=start, key=KEY)
    assert again.feature_names == tuple(NAMES)
    np.testing.assert_allclose(again.trace[0], start.objective, rtol=1e-8)
    assert start.gmm.bic(scan(tmp_path / "rows.parquet")) == pytest.approx(start.gmm.bic(x), rel=1e-10)
    together = Processes(scan(tmp_path / "rows.parquet"))
    np.testing.assert_array_equal(jg.fit(together, init=start, key=KEY).trace, again.trace)
    assert start.gmm.bic(together) == pytest.approx(start.gmm.bic(x), rel=1e-10)
    frame.rename(columns={"a": "z"}).to_parquet(tmp_path / "others.parquet")
    with pytest.raises(ValueError, match="lacks the column 'a'"):
        jg.fit(scan(tmp_path / "others.parquet"), init=start, key=KEY)


def test_folders_that_are_called_like_files(frame, x, tmp_path):
    """As Spark and Dask write them; a row is read once."""
    (tmp_path / "data" / "rows.parquet").mkdir(parents=True)
    for i in range(2):
        frame.iloc[i * 750 : (i + 1) * 750].to_parquet(tmp_path / "data" / "rows.parquet" / f"part.{i}.parquet")
    for place in (tmp_path / "data", tmp_path / "data" / "rows.parquet", str(tmp_path / "data" / "*.parquet")):
        rows = scan(place)
        assert rows.n_samples == len(x), place
        np.testing.assert_array_equal(np.concatenate([piece for piece, _ in rows.parts()]), x)


def test_spaces_around_names_of_a_csv_are_none_of_them(tmp_path):
    (tmp_path / "rows.csv").write_text("a, b\n1,2\n3,5\n")
    rows = scan(tmp_path / "rows.csv", ["b"])
    assert rows.feature_names == ("b",)
    assert [piece.tolist() for piece, _ in rows.parts()] == [[[2.0], [5.0]]]


def test_criteria(frame, x, tmp_path):
    gmm, rows = jg.fit(x, 2, key=KEY, n_init=1).gmm, scan(npy(frame, tmp_path), rows_a_piece=400)
    for name in ("log_likelihood", "bic", "aic", "icl"):
        assert getattr(gmm, name)(rows) == pytest.approx(float(getattr(gmm, name)(x)), rel=1e-12)
    with pytest.raises(ValueError, match="each of which has its own"):
        gmm.bic(rows, np.ones(len(x)))


@pytest.mark.parametrize(("kind", "dtype"), [("float32", "float32"), ("float64", "float64"), ("int32", "float64")])
def test_dtypes(kind, dtype, tmp_path):
    values = np.arange(60).reshape(20, 3).astype(kind)
    pd.DataFrame(values, columns=NAMES).to_parquet(tmp_path / "rows.parquet")
    np.save(tmp_path / "rows.npy", values)
    for name in ("rows.parquet", "rows.npy"):
        ((rows, _),) = scan(tmp_path / name).parts()
        assert rows.dtype == dtype
        np.testing.assert_array_equal(rows, values)


@pytest.mark.parametrize("way", ["parquet", "folder", "npy", "csv"])
@pytest.mark.parametrize("number", [2, 3])
def test_shards_are_all_rows(way, number, frame, x, tmp_path):
    place = WAYS[way](frame, tmp_path)
    if way == "csv":
        place = [place] * 3  # a file is read by one
    parts = []
    for index in range(number):
        parts += [rows for rows, _ in scan(place, shard=(index, number), rows_a_piece=100).parts()]
    found = np.concatenate(parts)
    expected = np.concatenate([x] * 3) if way == "csv" else x
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(expected, axis=0))
    if way != "csv":
        np.testing.assert_array_equal(found, x)  # neighbours, in order


def test_a_csv_column_may_have_fractions_late(tmp_path):
    pd.DataFrame({"a": [1] * 200_000 + [1.5], "b": 2}).to_csv(tmp_path / "rows.csv", index=False)
    assert scan(tmp_path / "rows.csv").n_samples == 200_001


def test_only_a_few_rows_are_in_memory(tmp_path):
    """A pass over pieces of 1000 rows: no array of more is made by NumPy, whatever the number of rows."""
    import tracemalloc

    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(200_000, 5)))
    rows = scan(tmp_path / "rows.npy", rows_a_piece=1000)
    assert rows.n_samples == 200_000
    tracemalloc.start()
    for _ in rows.parts():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 1000 * 5 * 8


def test_pieces_share_a_program(tmp_path, compilations):
    """Also the last one, which is shorter, and those of other files."""
    rng = np.random.default_rng(0)
    for n in (5000, 4100):
        np.save(tmp_path / f"{n}.npy", rng.normal(size=(n, 2)))
    start = jg.fit(scan(tmp_path / "5000.npy", rows_a_piece=2048), 2, key=KEY, n_init=1, max_steps=2000).gmm
    compilations.clear()
    jg.fit(scan(tmp_path / "4100.npy", rows_a_piece=2048), init=start, key=KEY, max_steps=2000)
    assert not compilations


# What can't be read


def error(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "missing values (NaN)"), (np.inf, "infinite values")])
def test_values_that_are_not_finite_are_named_by_file_and_row(value, what, frame, tmp_path):
    frame.loc[1234, "b"] = value
    rows = scan(several(frame, tmp_path))
    assert f"rows2.parquet has {what} in row 234, counted from 0" in error(lambda: jg.fit(rows, 2, key=KEY))
    frame.to_csv(tmp_path / "all.csv", index=False)
    assert f"all.csv has {what} in row 1234" in error(lambda: list(scan(tmp_path / "all.csv").parts()))


def test_weights_that_are_not_weights(frame, tmp_path):
    frame.assign(w=np.where(frame.index == 700, -1.0, 1.0)).to_parquet(tmp_path / "rows.parquet", row_group_size=400)
    message = error(lambda: scan(tmp_path / "rows.parquet", NAMES, sample_weight="w").n_samples)
    assert "weight that is no number of at least 0 in row 700" in message


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("nothing.parquet",), FileNotFoundError, "no data file"),
        (("no*.parquet",), FileNotFoundError, "no data file"),
        (("rows.dat",), ValueError, "unknown type of file '.dat'"),
        ((3,), TypeError, "source must be a file"),
        (([],), ValueError, "empty list"),
        (("rows.parquet", "abc"), TypeError, "columns must be a list"),
        (("rows.parquet", ["q"]), ValueError, "no column 'q'; it has a, b, c"),
        (("rows.parquet", ["a", "a"]), ValueError, "none twice"),
        (("rows.npy", ["a"]), ValueError, "have no names: leave columns out"),
        (("text.parquet",), TypeError, "column 't' is not numbers"),
        (("headless.csv",), ValueError, "the first line, 1.0, 2.0, is numbers"),
        (("cut.npy",), ValueError, "was cut short"),
        (("cut.parquet",), ValueError, "can't be read"),
        (("line.npy",), ValueError, "rows x columns"),
        (("objects.npy",), TypeError, "needs real numbers"),
        (("empty.parquet",), ValueError, "empty.parquet has no rows"),
        (("semicolons.csv",), ValueError, "if ';' is between its columns, set delimiter"),
        ((pd.DataFrame({"a": [1.0]}),), TypeError, "give it to fit itself"),
        (("nothing",), FileNotFoundError, "no data file"),
        ((["rows.parquet", "rows.npy"],), ValueError, "give files of the same columns"),
        ((["rows.parquet", "other.parquet"],), ValueError, "other.parquet has no column 'b'"),
        ((["other.parquet", "rows.parquet"],), ValueError, "a column 'b', which"),
    ],
)
def test_what_can_not_be_read(arguments, kind, words, frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = [path.read_bytes() for path in (parquet(frame, tmp_path), npy(frame, tmp_path))]
    for name, content in zip(("cut.parquet", "cut.npy"), raw, strict=True):
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    frame.assign(t="x").to_parquet("text.parquet")
    frame[["a", "c"]].to_parquet("other.parquet")
    (tmp_path / "headless.csv").write_text("1.0,2.0\n3.0,4.0\n")
    (tmp_path / "rows.dat").write_text("1")
    (tmp_path / "semicolons.csv").write_text("a;b\n1;2\n")
    frame[:0].to_parquet("empty.parquet")
    np.save("line.npy", np.arange(3.0))
    np.save("objects.npy", np.array([["a"]]))
    assert words in error(lambda: scan(*arguments), kind)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"rows_a_piece": 0}, ValueError, "rows_a_piece must be at least 1"),
        ({"shard": (2, 2)}, ValueError, "the index must be below"),
        ({"shard": (7, 9)}, ValueError, "can't be shared out to 9: whole row groups of a file are read, and there are 4"),
        ({"delimiter": ";;"}, ValueError, "delimiter must be one character"),
        ({"sample_weight": "a", "columns": ["a"]}, ValueError, "also one of the columns"),
        ({"sample_weight": "w"}, ValueError, "no column 'w'"),
        ({"delimiter": ";"}, ValueError, "delimiter is for CSV files"),
    ],
)
def test_options_that_do_not_fit(options, kind, words, frame, tmp_path):
    assert words in error(lambda: scan(parquet(frame, tmp_path), **options), kind)


def test_a_text_that_turns_up_late(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n" + "1,2\n" * 500_000 + "oops,3\n")
    rows = scan(tmp_path / "rows.csv")
    assert "rows.csv can't be read: In CSV column #0" in error(lambda: rows.n_samples)


@pytest.mark.parametrize("what", ["longer", "gone"])
def test_a_file_that_changes_while_it_is_read(what, frame, tmp_path):
    path = npy(frame, tmp_path)
    rows = scan(path, rows_a_piece=500)
    parts = rows.parts()
    next(parts)
    if what == "longer":
        with path.open("ab") as file:
            file.write(b"more")
    else:
        path.unlink()
    assert "was changed, or removed, while it was being read" in error(lambda: list(parts))
    assert "was changed" in error(lambda: jg.fit(rows, 2, key=KEY))


def test_a_damaged_page_with_a_checksum(frame, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pa.parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "rows.parquet", **options)
    raw = bytearray((tmp_path / "rows.parquet").read_bytes())
    raw[4000:4100] = bytes(100)
    (tmp_path / "rows.parquet").write_bytes(raw)
    assert "can't be read" in error(lambda: list(scan(tmp_path / "rows.parquet").parts()))


def test_ahead_hands_on_what_fails_in_its_turn():
    def numbers():
        yield 1
        raise OSError("no more")

    found = ahead(numbers())
    assert next(found) == 1
    with pytest.raises(OSError, match="no more"):
        next(found)


def test_what_is_not_asked_for_is_not_read():
    """Of a pass that ends early, one piece more than was used."""
    made = []

    def numbers():
        for i in range(10):
            made.append(i)
            yield i

    found = ahead(numbers())
    next(found)
    found.close()
    assert len(made) <= 2


def test_compare_and_vb_take_them(frame, x, tmp_path):
    rows = scan(several(frame, tmp_path), rows_a_piece=512)
    found, expected = (jg.compare(data, families=["diag"], n_components=[1, 2], key=KEY, n_init=2) for data in (rows, x))
    for name in ("bic", "icl", "log_likelihood"):
        np.testing.assert_allclose(found.table[name], expected.table[name], rtol=1e-8)
    assert found.select("bic").feature_names == tuple(NAMES)
    own, theirs = (jg.fit_vb(data, 2, key=KEY, n_init=2) for data in (rows, x))
    assert own.elbo == pytest.approx(theirs.elbo, rel=1e-9)
    for option in ({"held_out_folds": 2}, {"loo": True}, {"elbo": True}):
        assert "needs rows in memory" in error(lambda option=option: jg.compare(rows, key=KEY, **option))
    assert "wants all rows in memory" in error(lambda: jg.posterior(rows, own.expected_gmm(), method="nuts", key=KEY))
    assert "comes in pieces" in error(lambda: own.expected_gmm().predict(rows), TypeError)


@pytest.mark.skipif(os.name == "nt", reason="no such files")
def test_no_file_is_left_open(frame, tmp_path):
    rows = scan(several(frame, tmp_path), rows_a_piece=100)
    assert rows.n_samples == 1500
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        for _ in rows.parts():
            break
        list(rows.parts())
    assert len(os.listdir("/proc/self/fd")) <= before + 2
