"""`python -m experiments.tabular` compares +exp=tabular with boosting and scikit-learn's network.

Every contender has the same 64 % of the rows to train on, 16 % to stop by and 20 % to be judged by:
the root mean squared error of numbers, the log loss of classes. LightGBM has the tuned defaults of
Holzmüller, Grinsztajn & Steinwart 2024, "Better by default"; scikit-learn's have their own.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console as RichConsole
from rich.markdown import Markdown
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mlp_jax as mlp
from experiments.study import machine
from experiments.tabular.sets import SETS, Table

RECORD = Path(__file__).parent / "results.md"


class Split(NamedTuple):
    """Rows of a table, by their numbers."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(table: Table, seed: int) -> Split:
    """64, 16 and 20 %, stratified by class."""
    strata = table.y if table.of_classes else None
    rest, test = train_test_split(
        np.arange(len(table.y)), test_size=0.2, random_state=seed, stratify=strata
    )
    strata = table.y[rest] if table.of_classes else None
    train, validation = train_test_split(rest, test_size=0.2, random_state=seed, stratify=strata)
    return Split(train, validation, test)


def loss(table: Table, rows: np.ndarray, predicted: np.ndarray) -> float:
    if table.of_classes:
        return float(log_loss(table.y[rows], predicted, labels=range(table.y.max() + 1)))
    return float(root_mean_squared_error(table.y[rows], predicted))


def _predicted(model: Any, table: Table, x: pd.DataFrame) -> np.ndarray:
    return np.asarray(model.predict_proba(x) if table.of_classes else model.predict(x))


# --- the contenders: the loss of the test part -------------------------------------------------


def ours(table: Table, rows: Split) -> float:
    order = np.concatenate(rows)
    frame = table.x.iloc[order].copy()
    target = "target" + "_" * ("target" in frame)
    frame[target] = [f"class {y}" for y in table.y[order]] if table.of_classes else table.y[order]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        frame.to_csv(path, index=False)
        result = mlp.run(
            "+exp=tabular", "tracking=none", f"data.path={path}", f"data.target={target}",
            f"data.task={'classification' if table.of_classes else 'regression'}",
            "data.shuffle=false", f"data.validation_size={len(rows.validation)}",
            f"data.test_size={len(rows.test)}", f"checkpoint.root={folder}",
        )  # fmt: skip
    return float(result.metrics["test"]["log_loss" if table.of_classes else "rmse"])


def lightgbm(table: Table, rows: Split) -> float:
    from lightgbm import LGBMClassifier, LGBMRegressor, early_stopping

    of_classes: dict[str, Any] = {"learning_rate": 0.04, "subsample": 0.75, "num_leaves": 50}
    of_numbers: dict[str, Any] = {"learning_rate": 0.05, "subsample": 0.7, "num_leaves": 100}
    kind = LGBMClassifier if table.of_classes else LGBMRegressor
    model = kind(
        n_estimators=1000,
        subsample_freq=1,
        min_child_samples=40 if table.of_classes else 3,
        min_child_weight=1e-7,
        verbose=-1,
        **(of_classes if table.of_classes else of_numbers),
    )
    x, y = _with_categories(table, rows), table.y
    model.fit(
        x.iloc[rows.train],
        y[rows.train],
        eval_set=[(x.iloc[rows.validation], y[rows.validation])],
        callbacks=[early_stopping(300, verbose=False)],
    )
    return loss(table, rows.test, _predicted(model, table, x.iloc[rows.test]))


def boosting(table: Table, rows: Split) -> float:
    kind = HistGradientBoostingClassifier if table.of_classes else HistGradientBoostingRegressor
    model, x = kind(categorical_features="from_dtype"), _with_categories(table, rows)
    known = np.concatenate([rows.train, rows.validation])
    model.fit(x.iloc[known], table.y[known])
    return loss(table, rows.test, _predicted(model, table, x.iloc[rows.test]))


def scikit_learn_mlp(table: Table, rows: Split) -> float:
    columns = make_column_transformer(
        (
            make_pipeline(SimpleImputer(), StandardScaler()),
            make_column_selector(dtype_include=_NUMBERS),
        ),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude=_NUMBERS)),
    )
    known = np.concatenate([rows.train, rows.validation])
    y = table.y if table.of_classes else (table.y - table.y[known].mean()) / table.y[known].std()
    model = make_pipeline(columns, MLPClassifier() if table.of_classes else MLPRegressor())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(table.x.iloc[known], y[known])
    predicted = _predicted(model, table, table.x.iloc[rows.test])
    if not table.of_classes:
        predicted = predicted * table.y[known].std() + table.y[known].mean()
    return loss(table, rows.test, predicted)


_NUMBERS: Any = [np.number, "bool"]
CONTENDERS: dict[str, Callable[[Table, Split], float]] = {
    "+exp=tabular": ours,
    "LightGBM": lightgbm,
    "HistGradientBoosting": boosting,
    "scikit-learn's MLP": scikit_learn_mlp,
}


def _with_categories(table: Table, rows: Split) -> pd.DataFrame:
    """Texts as pandas' categories, those of the training part."""
    x = table.x.copy()
    for name in x.select_dtypes(exclude=_NUMBERS):
        x[name] = pd.Categorical(x[name], categories=x[name].iloc[rows.train].dropna().unique())
    return x


# --- the table ---------------------------------------------------------------------------------


def measure(names: Sequence[str], num_splits: int) -> str:
    """The losses, mean [lowest, highest] over the splits, and the seconds of a split."""
    lines = [["set", "rows", *(f"{name} (s)" for name in CONTENDERS), "ratio to the best booster"]]
    ratios = []
    for name in names:
        table = SETS[name]()
        losses, seconds = np.zeros((2, len(CONTENDERS), num_splits))
        for seed in range(num_splits):
            rows = split(table, seed)
            for index, contend in enumerate(CONTENDERS.values()):
                start = time.perf_counter()
                losses[index, seed] = contend(table, rows)
                seconds[index, seed] = time.perf_counter() - start
        ratios.append(losses[0].mean() / losses[1:3].mean(axis=1).min())
        cells = [
            f"{of.mean():.4g} [{of.min():.4g}, {of.max():.4g}] ({took.mean():.1f})"
            for of, took in zip(losses, seconds, strict=True)
        ]
        lines.append([name, f"{len(table.y):,}", *cells, f"{ratios[-1]:.3f}"])
    lines.insert(1, ["---"] * len(lines[0]))
    table_text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "# Somebody's table\n\n"
        f"`python -m experiments.tabular --splits {num_splits}`: mean [lowest, highest] loss over "
        f"{num_splits} splits, seconds a split with compilation. Mean ratio to the better of the "
        f"boosters: **{np.mean(ratios):.3f}**.\n\n{table_text}\n\nMachine: {machine()}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.tabular", description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[[], *SETS], default=[], help="default: all")
    parser.add_argument("--splits", type=int, default=5, help="default: 5")
    parser.add_argument("--write", action="store_true", help=f"rewrite {RECORD.name}")
    options = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "agg")
    text = measure(options.sets or list(SETS), options.splits)
    if options.write:
        RECORD.write_text(text, encoding="utf-8")
    RichConsole().print(Markdown(text))


if __name__ == "__main__":
    main()
