"""A table written in any common spelling is read back as it was, or refused in a line."""

import io

import numpy as np
import pandas as pd
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from test_data import table

from mlp_jax.data import load
from mlp_jax.errors import UserError

NAMES = st.from_regex(r"[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ0-9 _(){}=$%-]{0,8}[a-z]", fullmatch=True)
WORDS = st.from_regex(r"[a-zß-ö][a-zß-ö',;| \"-]{0,6}[a-z]", fullmatch=True)
FLOATS = st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda v: float(f"{v:.6g}"))
INTEGERS = st.integers(-(10**6), 10**6)
KINDS = {"float": FLOATS, "integer": INTEGERS, "bool": st.booleans(), "word": WORDS}


@st.composite
def tables(draw):
    """A frame of 12 to 40 rows, whose last column is the target, and the kind of each column."""
    num_rows = draw(st.integers(12, 40))
    names = draw(st.lists(NAMES, min_size=2, max_size=5, unique_by=str.lower))
    kinds = [draw(st.sampled_from(sorted(KINDS))) for _ in names]
    columns = {}
    for name, kind in zip(names, kinds, strict=True):
        entries = KINDS[kind]
        if kind in ("bool", "word"):
            some = draw(st.lists(entries, min_size=2, max_size=4, unique=True))
            entries = st.sampled_from(some)
        columns[name] = draw(st.lists(entries, min_size=num_rows, max_size=num_rows))
    return pd.DataFrame(columns), dict(zip(names, kinds, strict=True))


@given(
    tables(),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([".", ","]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.sampled_from([0, 1]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "NA", "?"]),
    st.booleans(),
    st.data(),
)
@settings(max_examples=60, deadline=None, phases=[Phase.generate, Phase.shrink])
def test_is_read_back_or_refused(
    tmp_path_factory, made, separator, point, encoding, quoting, end, missing, header, data
):
    frame, kinds = made
    *inputs, target = frame
    with_gaps = frame.copy()
    gap = data.draw(st.sampled_from(inputs), "gap in")
    if missing:
        with_gaps[gap] = with_gaps[gap].astype(object)
        with_gaps.loc[3, gap] = np.nan
    text = io.StringIO()
    with_gaps.to_csv(
        text, sep=separator, decimal=point, index=False, header=header, quoting=quoting,
        lineterminator=end, na_rep=missing,
    )  # fmt: skip
    note(text.getvalue())
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(text.getvalue().encode(encoding, errors="replace"))
    names = dict(zip(frame, frame if header else map(str, range(frame.shape[1])), strict=True))
    keys = {"missing": "mean", "missing_values": [missing]} if missing else {}
    keys |= {"encoding": encoding} if encoding == "cp1252" else {}
    keys |= {} if header else {"header": "none"}
    try:
        dataset = load(table(path, target=names[target], **keys))
    except UserError as error:
        note(str(error))
        assert str(error).count("\n") <= frame.shape[1]
        return
    rows = frame.rename(columns=names)
    if missing:
        rows = rows.drop(index=3)
    _assert_same(dataset, rows, {names[name]: kind for name, kind in kinds.items()}, names[target])


def _assert_same(dataset, rows, kinds, target):
    """Numbers and categories are those of the rows, in their order."""
    keep = np.ones(len(dataset.train.x), bool)
    if len(keep) > len(rows):
        keep[3] = False
    x = dataset.train.x[keep]
    for column in dataset.preprocessing.columns:
        entries = rows[column.name]
        if kinds[column.name] in ("float", "integer"):
            assert not column.categories, column
            np.testing.assert_array_equal(x[:, dataset.feature_names.index(column.name)], entries)
        else:
            assert set(column.categories) >= {str(entry).strip() for entry in entries}
            first = dataset.feature_names.index(f"{column.name}={column.categories[0]}")
            found = x[:, first : first + len(column.categories)].argmax(axis=1)
            assert [column.categories[i] for i in found] == [str(entry) for entry in entries]
    y = dataset.train.y[keep]
    if dataset.class_values:
        assert [dataset.class_values[label] for label in y] == rows[target].tolist()
    else:
        assert kinds[target] in ("float", "integer")
        np.testing.assert_array_equal(y[:, 0], rows[target])
