"""The user's own table is read as it was meant, or refused with the key that says how."""

import gzip
import os

import numpy as np
import pandas as pd
import pytest
from test_data import table

from mlp_jax.data import load
from mlp_jax.data.files import reading
from mlp_jax.errors import UserError

ROWS = [(round(float(a), 3), round(float(b), 3), i % 2) for i, (a, b) in
        enumerate(np.random.default_rng(0).normal(size=(60, 2)))]  # fmt: skip


def text(header="a,b,y", rows=ROWS, sep=",", point="."):
    lines = [header.replace(",", sep)]
    lines += [sep.join(str(entry).replace(".", point) for entry in row) for row in rows]
    return "\n".join(lines) + "\n"


READ = {
    "semicolons": (text(sep=";").encode(), "data.separator=semicolon"),
    "tabs": (text(sep="\t").encode(), "data.separator=tab"),
    "pipes": (text(sep="|").encode(), "data.separator=pipe"),
    "spaces": (text(sep="   ").encode(), "data.separator=space"),
    "decimal commas": (text(sep=";", point=",").encode(), "data.decimal=comma"),
    "sep line": (b"sep=;\n" + text(sep=";").encode(), "data.separator=semicolon"),
    "comments": (b"# lab 3\n# of Monday, 3, 4, 5\n" + text().encode(), "before the header"),
    "byte order mark": (text().encode("utf-8-sig"), None),
    "utf-16": (text().encode("utf-16"), "data.encoding=utf-16"),
    "gzip": (gzip.compress(text().encode()), None),
    "windows lines": (text().replace("\n", "\r\n").encode(), None),
    "names after a comment sign": (b"#" + text().encode(), None),
    "rows of commas at the end": (text().encode() + b",,\n,,\n", "without any entry: 2 rows"),
    "an empty column": (
        text("a,b,y,", [(*row, "") for row in ROWS]).encode(), "without any entry: 'Unnamed: 3'"
    ),
    "row numbers": (
        text(",a,b,y", [(i, *row) for i, row in enumerate(ROWS)]).encode(),
        "the row number: 'Unnamed: 0'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_is_read_as_meant(name, tmp_path):
    content, note = READ[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    dataset = load(table(path))
    assert dataset.feature_names == ("a", "b")
    np.testing.assert_array_equal(dataset.train.x, [row[:2] for row in ROWS])
    np.testing.assert_array_equal(dataset.train.y, [row[2] for row in ROWS])
    assert note is None or any(note in said for said in dataset.notes), dataset.notes


def column(values, name="c", n=60):
    return text(f"{name},b,y", [(v, *row[1:]) for v, row in zip(values, ROWS[:n], strict=True)])


def several(*texts):
    return [texts[i % len(texts)] for i in range(60)]


THOUSANDS = [f'"{1000 * (1 + i % 30):,}"' for i in range(60)]
REFUSED = {
    "latin-1": (text("größe,b,y").encode("latin-1"), {}, "line 1.*0xf6.*encoding=cp1252.*größe"),
    "title line": (b"My table\n" + text().encode(), {}, r"line 1.*'My table'.*data.header=2"),
    "no names": (text("0.5,0.25,1").encode(), {"target": "1"}, "first line.*data.header=none"),
    "names of texts among numbers": (
        column(several("u", "v"), "u").replace("u,b,y", "u,0.5,1", 1).encode(), {"target": "1"},
        "looks like data",
    ),
    "an html page": (b"\n<!DOCTYPE html><html></html>", {}, "HTML page"),
    "a git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", {}, "git lfs pull"),
    "an archive": (b"PK\x03\x04" + bytes(60), {}, "zip archive, or an Excel workbook"),
    "parquet": (b"PAR1" + bytes(60), {}, "ending .parquet"),
    "question mark": (
        column(["?" if i == 11 else i % 10 for i in range(60)]).encode(), {},
        r"'c': 59 of its 60 entries are numbers, but not '\?' \(1\).*missing_values.*categorical",
    ),
    "second header": (
        text(rows=[("cont", "cont", "class"), *ROWS]).encode(), {}, r"'y'.*'class'(?s:.*)'a'"
    ),
    "thousands": (column(THOUSANDS).encode(), {}, r"'c'.*separators.*data.numeric=\[c\]"),
    "percent": (column(several("12%", "3.5%")).encode(), {}, r"'c'.*data.numeric=\[c\]"),
    "dollars": (column(several("$5", "$7.5")).encode(), {}, r"'c'.*data.numeric=\[c\]"),
    "thousands as target": (
        column(THOUSANDS).encode(), {"target": "c"}, r"'c'.*data.numeric=\[c\]"
    ),
    "surnames": (column([f"n{i % 45}" for i in range(60)]).encode(), {}, "'c': 45 different texts"),
    "ids": (column([12345678901234567 + i for i in range(60)]).encode(), {}, "beyond 2.53"),
    "larger ids": (column([12345678901234567000 + i for i in range(60)]).encode(), {}, "2.53"),
    "one long line": (b"{" + b"1" * 300_000 + b"}", {}, "no column of"),
    "dates": (column(several("2024-01-05", "2024-02-29")).encode(), {}, "'c'.*are dates.*categor"),
    "german dates": (column(several("5.1.2024", "NA", "29.2.24")).encode(), {}, "'c'.*are dates"),
    "times": (column(several('"Jan 5, 2024 7:30 pm"', "12:45")).encode(), {}, "'c'.*are dates"),
    "free texts": (
        column([f"the {i} of them said {i % 7}" for i in range(20)], n=20).encode(), {},
        "'c': 20 different texts",
    ),
    "a name like a number": (
        text("1e3,b,y").encode(), {"target": "1000.0"}, "'data.target=\"1e3\"'"
    ),
    "a name with a space": (
        text("a,b, income").encode(), {"target": "income"}, "Did you mean ' income'.*\" income\""
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_what_helps(name, tmp_path):
    content, other, message = REFUSED[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load(table(path, **other))
    assert len(str(error.value)) < 1000


HELPS = {
    "latin-1": {"encoding": "latin-1"},
    "title line": {"header": 2},
    "no names": {"header": "none", "target": "2"},
    "question mark": {"missing_values": ["?"], "missing": "mean"},
    "thousands": {"numeric": ["c"]},
    "percent": {"numeric": ["c"]},
    "dollars": {"numeric": ["c"]},
    "surnames": {"categorical": ["c"]},
    "dates": {"categorical": ["c"]},
    "ids": {"ignore": ["c"]},
    "a name like a number": {"target": "1e3", "task": "regression"},
}


@pytest.mark.parametrize("name", HELPS)
def test_the_advice_helps(name, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(REFUSED[name][0])
    assert len(load(table(path, **HELPS[name])).train.x) >= 60


def test_numbers_with_signs_are_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several('"$1,200.50"', "12%", "7")))
    x = load(table(path, numeric=["c"])).train.x
    np.testing.assert_array_equal(x[:3, 0], [1200.5, 12, 7])


def test_none_is_a_class(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several("None", "Apnea", "Insomnia")))
    dataset = load(table(path, target="c", missing="drop"))
    assert dataset.class_names == ("Apnea", "Insomnia", "None") and len(dataset.train.x) == 60
    assert any("'None' is one of its texts" in note for note in dataset.notes)
    taken = load(table(path, target="c", missing="drop", missing_values=["None"]))
    assert taken.class_names == ("Apnea", "Insomnia")


def test_words_for_missing_entries_are_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several("NA", "1.5", "2.5")))
    with pytest.raises(UserError, match=r"missing in 'c' \(20\)"):
        load(table(path))
    dataset = load(table(path, missing="mean"))
    assert dataset.train.x[0, 0] == 2.0 and any("'NA' counts" in note for note in dataset.notes)


def test_a_category_however_it_is_spelt(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column([i % 2 == 0 for i in range(60)], "flag"))
    dataset = load(table(path))
    for values in ([True, False], [1, 0], [1.0, 0.0], ["true", "false"], ["True", "FALSE"]):
        x = dataset.preprocessing.encode(pd.DataFrame({"flag": values, "b": 0.5}))
        np.testing.assert_array_equal(x, [[0, 1, 0.5], [1, 0, 0.5]], err_msg=str(values))
    path.write_text(column(several(1, 2, 3)))
    dataset = load(table(path, categorical=["c"]))
    assert dataset.feature_names == ("c=1", "c=2", "c=3", "b")
    for values in ([1, 3], [1.0, 3.0], ["1", "3"], ["1.0", "3.0"]):
        x = dataset.preprocessing.encode(pd.DataFrame({"c": values, "b": 0.5}))
        np.testing.assert_array_equal(x, [[1, 0, 0, 0.5], [0, 0, 1, 0.5]], err_msg=str(values))


def test_a_date_is_no_number(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text())
    preprocessing = load(table(path)).preprocessing
    with pytest.raises(UserError, match="'a': must be numbers, not dates"):
        preprocessing.encode(pd.DataFrame({"a": [pd.Timestamp("2024")], "b": 0.5}))


def test_parquet_categories_of_numbers(tmp_path):
    frame = pd.DataFrame({"c": pd.Categorical([0, 1, 2] * 20), "y": np.arange(60) / 7})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load(table(tmp_path / "t.parquet")).feature_names == ("c=0", "c=1", "c=2")


def test_equal_names_in_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    x = np.arange(4.0)
    pa.parquet.write_table(pa.table([x, x, x], names=["a", "a", "y"]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="more than one column is called 'a'"):
        load(table(tmp_path / "t.parquet"))


def test_bytes_are_labels(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).normal(size=(4, 2)), y=[b"a", b"b"] * 2)
    assert load(table(tmp_path / "t.npz")).class_names == ("a", "b")


def test_names_of_inputs_differ(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text("c,c=u,y", [("uv"[i % 2], *row[1:]) for i, row in enumerate(ROWS)]))
    assert len(set(load(table(path)).feature_names)) == 3


def test_what_the_columns_became_is_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several("u", "v", "w")))
    notes = load(table(path)).notes
    assert any("1 numbers: b; 1 of categories (inputs): c (3)" in note for note in notes)


def test_blanks_around_an_entry_are_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several("yes", " yes", "no ", "no")))
    dataset = load(table(path, target="b", task="regression"))
    assert dataset.feature_names == ("c=no", "c=yes", "y")
    x = dataset.preprocessing.encode(pd.DataFrame({"c": ["yes", " yes", "no\t"], "y": 0}))
    np.testing.assert_array_equal(x, [[0, 1, 0], [0, 1, 0], [1, 0, 0]])
    assert load(table(path, target="c")).class_names == ("no", "yes")


def test_numbers_for_missing_entries(tmp_path):
    """They are the same numbers however they are written, in training and in prediction."""
    path = tmp_path / "t.csv"
    path.write_text(column(several("1", "-999", "5", "-999.0")))
    dataset = load(table(path, missing_values=["-999"], missing="mean"))
    assert set(dataset.train.x[:, 0]) == {1, 3, 5}
    for code in (-999, -999.0, "-999", None):
        x = dataset.preprocessing.encode(pd.DataFrame({"c": [code, "1"], "b": 0.0}))
        assert x[:, 0].tolist() == [3, 1]


def test_a_comma_in_each_line_does_not_separate(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{'uv'[i % 2]};{i},5\n" for i in range(20)))
    dataset = load(table(path, header="none", target="1"))
    assert dataset.feature_names == ("0=u", "0=v") and dataset.train.y[1, 0] == 1.5


def test_columns_without_names_are_numbers_to_the_model_too(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text().partition("\n")[2])
    dataset = load(table(path, header="none", target="2"))
    frame = pd.read_csv(path, header=None)
    np.testing.assert_array_equal(dataset.preprocessing.encode(frame), dataset.train.x)
    with pytest.raises(UserError, match="'0': 2 columns have this name"):
        dataset.preprocessing.encode(frame.rename(columns={1: 0}))


def test_a_target_that_is_empty_somewhere(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text(rows=[*ROWS, (1.5, 2.5, "")]))
    with pytest.raises(UserError, match=r"missing in 'y' \(1\).*data\.missing=drop"):
        load(table(path))
    for missing, what in ("drop", "an entry"), ("mean", "'y'"), ("indicator", "'y'"):
        dataset = load(table(path, missing=missing))
        assert len(dataset.train.x) == 60 and dataset.class_values == (0, 1)
        assert f"dropped 1 of 61 rows, which lack {what}" in dataset.notes
    path.write_text(text(rows=[(*row[:2], "") for row in ROWS]))
    with pytest.raises(
        UserError, match=r"every row .* lacks an entry, most of them in 'y' \(60\)\.$"
    ):
        load(table(path, missing="indicator"))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", object])
def test_whole_numbers_that_floats_round(dtype, tmp_path):
    path = tmp_path / "t.parquet"
    ids = pd.Series([2**53 + i for i in range(60)], dtype=dtype)
    pd.DataFrame({"id": ids, "a": np.arange(60.0) ** 2, "y": np.arange(60) / 7}).to_parquet(path)
    with pytest.raises(UserError, match=r"'id': .*beyond 2\^53.*data\.ignore=\[id\]"):
        load(table(path))
    assert load(table(path, numeric=["id"])).feature_names == ("id", "a")
    path = tmp_path / "t.csv"
    path.write_text(column(["NA", *(2**53 + i for i in range(59))]))
    with pytest.raises(UserError, match=r"'c': .*beyond 2\^53"):
        load(table(path, missing="mean"))


def test_structured_arrays(tmp_path):
    x = np.zeros(4, [("a", float), ("b", int)])
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(4) / 3)
    with pytest.raises(UserError, match=r"x\.npy is structured, with the fields 'a', 'b'"):
        load(table(tmp_path / "t.npz"))


def test_one_array_is_not_read_as_several(tmp_path, monkeypatch):
    with (tmp_path / "t.npz").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
        )
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: pytest.fail("was read"))
    with pytest.raises(UserError, match=r"numpy\.savez"):
        load(table(tmp_path / "t.npz"))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="a pipe, not a file"):
        load(table(tmp_path / "t.csv"))


def test_what_unpacks_to_too_much(tmp_path, monkeypatch):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text().encode()))
    pd.DataFrame({"a": np.zeros(5000), "y": 1.5}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr("mlp_jax.data.files.half_of_memory", lambda: 1000)
    for name in ("t.csv.gz", "t.parquet"):
        with pytest.raises(UserError, match="unpacks to"):
            load(table(tmp_path / name))


def test_inputs_that_memory_does_not_hold(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text(column(several("u", "v", "w")))
    monkeypatch.setattr("mlp_jax.data.files.half_of_memory", lambda: 3000)
    with pytest.raises(UserError, match="'c': makes 3 of 4 inputs"):
        load(table(path))


# --- what the reader and the model make of the same texts ----------------------------------------

SPELT = {
    "decimal comma and NA": ("a;b;y", ["0,25", "NA", "2,5", "3"], {"missing": "mean"}, 0.25),
    "decimal comma and euros": ("a;b;y", ["10,50 €", "7,25 €"], {"numeric": ["a"]}, 10.5),
    "european thousands": ("a;b;y", ["1.234,56", "7,5"], {"numeric": ["a"]}, 1234.56),
    "dollars": ("a,b,y", ["$1.50", "$2.25"], {"numeric": ["a"]}, 1.5),
    "question marks": ("a,b,y", ["4", "?", "5"], {"missing_values": ["?"], "missing": "mean"}, 4),
}


@pytest.mark.parametrize("name", SPELT)
def test_a_number_is_the_same_in_training_and_prediction(name, tmp_path):
    header, texts, other, first = SPELT[name]
    sep = ";" if ";" in header else ","
    rows = [sep.join([texts[i % len(texts)], str(i % 7), str(i % 2)]) for i in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    dataset = load(table(path, **other))
    assert dataset.feature_names == ("a", "b") and dataset.train.x[0, 0] == first
    as_others_read_it = pd.read_csv(path, sep=sep, dtype={"a": str})
    stored = type(dataset.preprocessing).from_dict(dataset.preprocessing.to_dict())
    np.testing.assert_array_equal(stored.encode(as_others_read_it), dataset.train.x)


def test_twelve_fifty_is_not_a_thousand(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several('"12,50"', '"7,25"', "x.5")))
    with pytest.raises(UserError, match=r"data\.decimal=comma|are numbers, but not"):
        load(table(path, numeric=["c"]))


def test_a_line_break_in_the_header_loses_no_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text('a,"b\nin m",y'))
    dataset = load(table(path))
    assert dataset.feature_names == ("a", "b\nin m")
    np.testing.assert_array_equal(dataset.train.x, [row[:2] for row in ROWS])


def test_a_category_called_none_is_known_to_the_model(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several("Full", "None", "Half", "Full")))
    dataset = load(table(path, missing="mean"))
    np.testing.assert_array_equal(dataset.preprocessing.encode(pd.read_csv(path)), dataset.train.x)


def test_codes_keep_their_zeros(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(column(several("01234", "1234", "00500")))
    assert load(table(path)).feature_names == ("c=00500", "c=01234", "c=1234", "b")


@pytest.mark.parametrize(
    ("labels", "other"),
    [([True, False, None], {"missing": "drop"}), ([3, 5], {"categorical": ["y"]})],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_class_values_are_the_labels(labels, other, suffix, tmp_path):
    frame = pd.DataFrame({"a": [row[0] for row in ROWS], "y": several(*labels)})
    path = tmp_path / f"t{suffix}"
    (frame.to_csv if suffix == ".csv" else frame.to_parquet)(path, index=False)
    values = load(table(path, **other)).class_values
    assert sorted(values) == sorted(label for label in labels if label is not None)
    assert {type(value) for value in values} == {type(labels[0])}


def test_a_mistake_that_is_told_is_told_once(tmp_path):
    with pytest.raises(UserError, match=r"^as it is$"), reading("data.path", tmp_path):
        raise UserError("as it is")
