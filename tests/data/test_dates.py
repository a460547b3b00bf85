"""Dates of a table and their parts, against pandas."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from test_data import table

from mlp_jax.data import load, raw_inputs
from mlp_jax.data.dates import STYLES, StyleError, as_dates, encode_dates, read_dates, style_of
from mlp_jax.data.preprocessing import Preprocessing
from mlp_jax.errors import UserError

DAYS = pd.Series(pd.date_range("2019-11-03 04:30", periods=60, freq="13D5h"))


def written(tmp_path, when, **other):
    frame = pd.DataFrame({"when": when, "y": np.arange(len(when)) / 7, **other})
    frame.to_csv(tmp_path / "t.csv", index=False)
    return frame, table(tmp_path / "t.csv", dates="parts")


CLOCKS = ["", " %H:%M", ", %I:%M:%S %p", "T%H:%M:%S.%f+02:00"]
OF_DAYS = [style for style in STYLES[1:] if "d" in style]
WRITTEN = [*zip(OF_DAYS, itertools.cycle(CLOCKS), strict=False)]


@pytest.mark.parametrize(("style", "clock"), WRITTEN)
def test_texts_are_read_as_pandas_writes_them(style, clock):
    texts = DAYS.dt.strftime(style + clock).astype("str")
    assert style_of(texts) == style
    expected = DAYS if clock else DAYS.dt.normalize()
    pd.testing.assert_series_equal(read_dates(texts, style), expected, check_dtype=False)


@pytest.mark.parametrize(
    ("texts", "style", "first"),
    [
        (["Sept. 5, 2024", "January 12, 2024"], "%b %d %Y", "2024-09-05"),
        (["5-Jan-2024", "29-FEB-2024"], "%d %b %Y", "2024-01-05"),
        (["2024-1", "2024-12"], "%Y-%m", "2024-01-01"),
        (["7:30 pm", "12:15 am", "12:15 PM"], "time", "1970-01-01 19:30"),
        (["05/05/2024", "06/06/2024"], "%d/%m/%Y", "2024-05-05"),
    ],
)
def test_other_ways_to_write_them(texts, style, first):
    texts = pd.Series(texts, dtype="str")
    assert style_of(texts) == style
    assert read_dates(texts, style)[0] == pd.Timestamp(first)


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["2024-01-05", "05.01.2024"], "in two formats, such as '2024-01-05' and '05.01.2024'"),
        (["13/01/2024", "01/14/2024"], "in two formats, such as '13/01/2024' and '01/14/2024'"),
        (["2024-01-05", "2024-02-07", "soon"], "other texts, such as '2024-01-05' and 'soon'"),
        (["01/02/2024", "03/04/2024"], "such as '01/02/2024', of which none says whether the day"),
        (["2024-01-05", "2024-02-30"], "other texts, such as '2024-01-05' and '2024-02-30'"),
        (["05:10", "6:10", "26:30"], "other texts, such as '05:10' and '26:30'"),
    ],
)
def test_what_is_of_no_one_style(texts, why, tmp_path):
    with pytest.raises(StyleError, match=why):
        style_of(pd.Series(texts, dtype="str"))
    _, config = written(tmp_path, texts * 10)
    with pytest.raises(UserError, match=f"column 'when': .*{why}.*data.ignore=") as error:
        load(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("style", ["%d.%m.%Y %H:%M", "%Y-%m-%dT%H:%M:%S", None])
def test_the_parts_are_those_of_pandas(style, tmp_path):
    frame, config = written(tmp_path, DAYS.dt.strftime(style) if style else DAYS)
    if style is None:
        frame.to_parquet(tmp_path / "t.parquet")
        config.path = str(tmp_path / "t.parquet")
    dataset = load(config)
    names = ["month sin", "month cos", "weekday sin", "weekday cos", "hour sin", "hour cos"]
    assert dataset.feature_names == ("when year", *[f"when {name}" for name in names])
    month = 2 * np.pi * (DAYS.dt.month - 1) / 12
    weekday = 2 * np.pi * DAYS.dt.day_of_week / 7
    hour = 2 * np.pi * (DAYS - DAYS.dt.normalize()) / pd.Timedelta("24h")
    angles = [np.sin(month), np.cos(month), np.sin(weekday), np.cos(weekday)]
    expected = np.column_stack([DAYS.dt.year, *angles, np.sin(hour), np.cos(hour)])
    np.testing.assert_allclose(dataset.train.x, expected, atol=1e-12)
    assert "1 of dates: when (year, month, weekday, hour)" in " ".join(dataset.notes)
    stored = json.loads(json.dumps(dataset.preprocessing.to_dict()))
    encode = Preprocessing.from_dict(stored).encode
    np.testing.assert_allclose(encode(raw_inputs(dataset, 9)), expected[:9], atol=1e-12)
    for raw in (DAYS, DAYS.dt.tz_localize("Asia/Tokyo"), DAYS.dt.to_pydatetime()):
        np.testing.assert_allclose(encode(pd.DataFrame({"when": raw})), expected, atol=1e-12)


def test_only_what_varies_becomes_an_input(tmp_path):
    days = pd.Series(pd.date_range("2024-03-01", periods=20)).dt.strftime("%Y-%m-%d")
    _, config = written(tmp_path, days, date=["2024-01-05", "2024-01-12"] * 10)
    dataset = load(config)
    assert dataset.feature_names == ("when weekday sin", "when weekday cos")
    assert "left out, because constant: date" in dataset.notes


@pytest.mark.parametrize("missing", ["mean", "indicator"])
def test_missing_dates(missing, tmp_path):
    gaps = DAYS.dt.strftime("%d.%m.%Y %H:%M").where(DAYS.index % 4 > 0)
    _, config = written(tmp_path, gaps)
    config.missing = missing
    dataset = load(config)
    left = DAYS[DAYS.index % 4 > 0].dt.floor("min")
    fill = left.mean() if missing == "mean" else left.median()
    filled = DAYS.where(DAYS.index % 4 > 0, fill)
    expected = encode_dates(filled, ("year", "month", "weekday", "hour"))
    np.testing.assert_allclose(dataset.train.x[:, :7], expected, atol=1e-9)
    if missing == "indicator":
        assert dataset.feature_names[-1] == "when is missing"
        assert dataset.train.x[:5, -1].tolist() == [1, 0, 0, 0, 1]
    told = []
    dataset.preprocessing.encode(pd.DataFrame({"when": [None, "01.05.2024"]}), told.append)
    assert not told


def test_predictions_are_as_strict(tmp_path):
    _, config = written(tmp_path, DAYS.dt.strftime("%d.%m.%Y"))
    encode = load(config).preprocessing.encode
    for odd in ("2024-05-01", "31.02.2024", "soon", 20240501, True):
        with pytest.raises(UserError, match=r"'when': must be dates .*\(24\.12\.2031 18.*1 of 2 e"):
            encode(pd.DataFrame({"when": ["01.05.2024", odd]}))
    with pytest.raises(UserError, match=r"'when': missing entries \(1 of 2\)"):
        encode(pd.DataFrame({"when": ["01.05.2024", None]}))


def test_words_for_a_missing_date(tmp_path):
    texts = DAYS.dt.strftime("%Y-%m-%d").where(DAYS.index != 3, "NA")
    frame, config = written(tmp_path, texts)
    config.missing = "indicator"
    dataset = load(config)
    assert "column 'when': 'NA' counts as missing" in " ".join(dataset.notes)
    np.testing.assert_array_equal(dataset.preprocessing.encode(frame), dataset.train.x)


def test_dates_of_parquet_are_refused_unless_asked_for(tmp_path):
    frame, config = written(tmp_path, DAYS)
    frame.to_parquet(tmp_path / "t.parquet")
    config.path, config.dates = str(tmp_path / "t.parquet"), "refuse"
    with pytest.raises(UserError, match=r"are dates: take their parts .*dates=parts, or leave"):
        load(config)


def test_dates_are_no_target(tmp_path):
    _, config = written(tmp_path, DAYS.dt.strftime("%Y-%m-%d"))
    config.target = "when"
    with pytest.raises(UserError, match=r"'when'.*are dates or times: turn them into numbers"):
        load(config)


def test_a_series_of_nothing():
    assert as_dates(pd.Series([None, np.nan, pd.NaT], dtype=object), "%Y-%m-%d").isna().all()
