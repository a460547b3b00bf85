"""Multilayer perceptrons as scikit-learn's estimators, with its parameters and its attributes.

With the same `random_state` they train as `sklearn.neural_network` does: the same initial weights,
order of the examples, updates and rules of stopping, in the precision of X. What differs is said
in docs/estimators.md.
"""

import warnings
from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import jax
import numpy as np
import scipy.optimize
import sklearn.neural_network
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state, column_or_1d, shuffle
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.network import Layer, Params
from mlp_jax.core.optimizers import OPTIMIZERS
from mlp_jax.estimators import epochs
from mlp_jax.estimators.epochs import Examples, Progress, Rule

T = TypeVar("T", bound="_MLP")

_FLOATS = (np.float64, np.float32)
_SIZES = ["array-like", Interval(Integral, 1, None, closed="left")]
_CONSTRAINTS = {
    "hidden_sizes": [*_SIZES, None],
    "activation": [StrOptions({"logistic", *ACTIVATIONS})],
    "solver": [StrOptions({"sgd", *OPTIMIZERS})],
}
"""What these classes allow beyond scikit-learn's."""


def _is_stochastic(estimator: "_MLP") -> bool:
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
        )
    return True


@dataclass(eq=False, repr=False)
class _MLP(BaseEstimator):
    """What classifier and regressor share. `fit` checks the fields, as scikit-learn wants it."""

    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"
    _: KW_ONLY
    solver: Any = "adam"
    alpha: Any = 0.0001
    batch_size: Any = "auto"
    learning_rate: Any = "constant"
    learning_rate_init: Any = 0.001
    power_t: Any = 0.5
    max_iter: Any = 200
    shuffle: Any = True
    random_state: Any = None
    tol: Any = 1e-4
    verbose: Any = False
    warm_start: Any = False
    momentum: Any = 0.9
    nesterovs_momentum: Any = True
    early_stopping: Any = False
    validation_fraction: Any = 0.1
    beta_1: Any = 0.9
    beta_2: Any = 0.999
    epsilon: Any = 1e-8
    n_iter_no_change: Any = 10
    max_fun: Any = 15000
    hidden_sizes: Any = None

    @abstractmethod
    def _check_data(self, X: Any, y: Any, incremental: bool) -> tuple[Any, NDArray[Any]]:
        """X as it is used, and the targets, one row an example."""

    @abstractmethod
    def _output(self) -> str:
        """The output activation, by scikit-learn's name."""

    # --- fitting -------------------------------------------------------------------------------

    def fit(self: T, X: Any, y: Any, sample_weight: Any = None) -> T:
        """Trains the network from its beginning, or from where it stands with `warm_start`."""
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self: T, X: Any, y: Any, sample_weight: Any, incremental: bool) -> T:
        self._validate_params()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        is_first = self._is_first(incremental)
        X, y = self._check_data(X, y, incremental)
        examples = self._examples(X, y, sample_weight, X.dtype if is_first else self._dtype())
        self._random_state = check_random_state(self.random_state)
        if is_first:
            self._initialize(X.shape[1], y.shape[1], X.dtype)
        if self.solver == "lbfgs":
            return self._fit_lbfgs(examples)
        return self._fit_stochastic(examples, X.shape[0], incremental)

    def _checked_finite(self: T) -> T:
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        return self

    def _is_first(self, incremental: bool) -> bool:
        return not hasattr(self, "coefs_") or not (self.warm_start or incremental)

    def _dtype(self) -> Any:
        return np.float32 if self.coefs_[0].dtype == np.float32 else np.float64

    def _examples(self, X: Any, y: NDArray[Any], sample_weight: Any, dtype: Any) -> Examples:
        """Dense, with rows at the end that fill up batches."""
        weight = _check_sample_weight(sample_weight, X)
        X = X.toarray() if hasattr(X, "toarray") else X
        num_rows = (len(X) // 64 + 1) * 64  # so that folds and small sets share programs

        def padded(array: NDArray[Any]) -> NDArray[Any]:
            rows = np.zeros((num_rows, *array.shape[1:]), dtype)
            rows[: len(array)] = array
            return rows

        return Examples(padded(X), padded(y), padded(weight))

    def _initialize(self, num_inputs: int, num_outputs: int, dtype: Any) -> None:
        """Glorot & Bengio 2010, eq. 16, for biases too, drawn in scikit-learn's order."""
        hidden = self.hidden_layer_sizes if self.hidden_sizes is None else self.hidden_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if any(size <= 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        sizes = [num_inputs, *hidden, num_outputs]
        self.coefs_: list[NDArray[Any]] = []
        self.intercepts_: list[NDArray[Any]] = []
        factor = 2.0 if self._activation() == "sigmoid" else 6.0
        for n_in, n_out in pairwise(sizes):
            bound = np.sqrt(factor / (n_in + n_out))
            for arrays, shape in (self.coefs_, (n_in, n_out)), (self.intercepts_, (n_out,)):
                arrays.append(self._random_state.uniform(-bound, bound, shape).astype(dtype))
        self.n_layers_, self.n_outputs_, self.out_activation_ = (
            len(sizes),
            num_outputs,
            self._output(),
        )
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        if self.solver != "lbfgs":
            self.loss_curve_: list[float] = []
            is_scored = self.early_stopping
            self.validation_scores_: Any = [] if is_scored else None
            self.best_validation_score_: Any = -np.inf if is_scored else None
            self.best_loss_: Any = None if is_scored else np.inf

    def _activation(self) -> str:
        return "sigmoid" if self.activation == "logistic" else self.activation

    def _rule(self) -> Rule:
        return Rule(
            self._activation(),
            self.out_activation_,
            self.solver,
            bool(self.nesterovs_momentum),
            "constant" if self.solver == "adam" else self.learning_rate,
        )

    def _params(self, dtype: Any) -> Params:
        """The lecture's W: (n_out, n_in), of scikit-learn's coefs_: (n_in, n_out)."""
        layers = zip(self.coefs_, self.intercepts_, strict=True)
        cast: Any = partial(np.asarray, dtype=dtype)
        return tuple(Layer(cast(coef.T), cast(intercept)) for coef, intercept in layers)

    def _set_coefs(self, params: Params, dtype: Any) -> None:
        self.coefs_ = [np.array(layer.W.T, dtype, order="C") for layer in params]
        self.intercepts_ = [np.array(layer.b, dtype) for layer in params]

    # --- sgd, adam and the core's other optimizers ---------------------------------------------

    def _fit_stochastic(self: T, examples: Examples, num_examples: int, incremental: bool) -> T:
        dtype, rows, held_out = examples.x.dtype, np.arange(num_examples), None
        if self.early_stopping:
            rows, held_out = self._split(examples, rows)
        order = _Order(
            rows, self._batch_size(len(rows)), self._random_state if self.shuffle else None
        )
        numbers = {name: np.asarray(getattr(self, name), dtype) for name in epochs.NUMBERS}
        max_epochs = 1 if incremental else self.max_iter
        self.n_iter_, is_done = 0, False
        with jax.enable_x64(dtype == np.float64):
            progress = self._progress(numbers, self._params(dtype), incremental)
            examples = jax.device_put(examples)
            try:
                while self.n_iter_ < max_epochs and not is_done:
                    orders = order.draw(max_epochs - self.n_iter_, len(examples.x) - 1)
                    progress, losses, scores = jax.device_get(
                        epochs.train_epochs(
                            self._rule(),
                            numbers,
                            examples,
                            progress,
                            orders,
                            len(rows),
                            held_out,
                            max_epochs,
                        )
                    )
                    num_new, is_done = int(progress.num_epochs) - self.n_iter_, progress.is_done
                    order.rewind(num_new)
                    self._report(losses[:num_new].tolist(), scores[:num_new].tolist())
            except KeyboardInterrupt:
                warnings.warn("Training interrupted by user.", stacklevel=4)
        self._take(progress, self.n_iter_ * len(rows))
        if self.verbose and is_done:
            name = "Validation score" if self.early_stopping else "Training loss"
            print(
                f"{name} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
                "consecutive epochs. Stopping."
            )
        if self.n_iter_ == self.max_iter and not (is_done or incremental):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return self._checked_finite()

    def _split(self, examples: Examples, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rows for training, and those held out for early stopping."""
        is_stratified = isinstance(self, MLPClassifier) and self.n_outputs_ == 1
        rows, held_out = train_test_split(
            rows,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=examples.y[rows].astype(bool) if is_stratified else None,
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return rows, held_out

    def _batch_size(self, num_examples: int) -> int:
        batch_size = 200 if self.batch_size == "auto" else self.batch_size
        if batch_size > num_examples and self.batch_size != "auto":
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=5,
            )
        return min(batch_size, num_examples)

    def _progress(self, numbers: epochs.Numbers, params: Params, incremental: bool) -> Progress:
        """With the optimizer as the last `partial_fit` left it, or a new one."""
        dtype, start = params[0].W.dtype, np.int32(0)
        if incremental and hasattr(self, "_optimizer"):
            last = self._optimizer
            opt_state, eta = jax.tree.map(
                lambda leaf: leaf.astype(dtype) if leaf.dtype.kind == "f" else leaf,
                (last.opt_state, last.learning_rate),
            )
            num_updates = last.num_updates
        else:
            opt_state = jax.device_get(epochs.init_opt_state(self._rule(), numbers, params))
            eta, num_updates = numbers["learning_rate_init"], start
        best = self.best_validation_score_ if self.early_stopping else -self.best_loss_
        return Progress(
            params=params,
            opt_state=opt_state,
            learning_rate=eta,
            num_updates=num_updates,
            num_seen=np.asarray(self.t_, dtype),
            best_score=np.asarray(best, dtype),
            best_params=params if self.early_stopping else None,
            num_worse=np.asarray(self._no_improvement_count, dtype),
            num_epochs=start,
            is_done=np.bool_(False),
        )

    def _report(self, losses: list[float], scores: list[float]) -> None:
        for loss, score in zip(losses, scores, strict=True):
            self.n_iter_ += 1
            self.loss_curve_.append(loss)
            if self.early_stopping:
                self.validation_scores_.append(score)
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")
                print(f"Validation score: {score:f}\n" * self.early_stopping, end="")

    def _take(self, progress: Progress, num_seen: int) -> None:
        """What has become of the network."""
        self._optimizer = progress._replace(params=(), best_params=None)
        self._no_improvement_count = int(progress.num_worse)
        self.t_ += num_seen
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        if self.early_stopping:
            self.best_validation_score_ = float(progress.best_score)
        else:
            self.best_loss_ = -float(progress.best_score)
        self._set_coefs(progress.best_params or progress.params, self.coefs_[0].dtype)

    # --- L-BFGS --------------------------------------------------------------------------------

    def _fit_lbfgs(self: T, examples: Examples) -> T:
        """SciPy's L-BFGS-B with the gradient by backprop, in float64 as scikit-learn's."""
        leaves, structure = jax.tree.flatten(self._params(np.float64))
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

        def params_of(theta: NDArray[Any]) -> Params:
            parts = zip(np.split(theta, ends), leaves, strict=True)
            return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in parts])

        def flat(leaves: list[Any]) -> NDArray[Any]:
            return np.concatenate([np.ravel(leaf) for leaf in leaves])

        with jax.enable_x64(True):
            examples = jax.device_put(Examples(*(np.asarray(a, np.float64) for a in examples)))
            alpha = np.float64(self.alpha)

            def value_and_gradient(theta: NDArray[Any]) -> tuple[float, NDArray[Any]]:
                value, grads = epochs.objective_of_all(
                    self._rule(), alpha, params_of(theta), examples
                )
                return float(value), flat(jax.tree.leaves(grads))

            result = scipy.optimize.minimize(
                value_and_gradient,
                flat(leaves),
                method="L-BFGS-B",
                jac=True,
                options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
            )
        self.n_iter_, self.loss_ = min(result.nit, self.max_iter), float(result.fun)
        self._set_coefs(params_of(result.x), self.coefs_[0].dtype)
        if self.verbose:
            print(f"L-BFGS: {result.message}, {result.nit} iterations, loss = {result.fun:.8f}")
        if result.status != 0:
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s) "
                f"(status={result.status}): {result.message}. Increase the number of iterations "
                "(max_iter, max_fun), or scale the data.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return self._checked_finite()

    # --- using ---------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> NDArray[Any]:
        """ŷ, one row an example."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=_FLOATS, reset=False)
        X = X.toarray() if hasattr(X, "toarray") else X
        dtype, num_examples = self._dtype(), len(X)
        rows = np.zeros((max(8, 1 << (num_examples - 1).bit_length()), X.shape[1]), dtype)
        rows[:num_examples] = X  # in powers of 2, so that few programs serve all numbers of rows
        with jax.enable_x64(dtype == np.float64):
            y_hat = epochs.outputs(
                self._activation(), self.out_activation_, self._params(dtype), rows
            )
        return np.array(y_hat)[:num_examples]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, _MLP):
    """A multilayer perceptron that classifies, as `sklearn.neural_network.MLPClassifier` does.

    `hidden_sizes` is this package's word for `hidden_layer_sizes`; where it is given, it counts.
    All parameters and attributes of scikit-learn's class are here under their names.

    >>> import numpy as np
    >>> X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), ["no", "yes", "yes", "no"]
    >>> model = MLPClassifier(hidden_sizes=(8,), solver="lbfgs", random_state=1).fit(X, y)
    >>> model.predict(X).tolist()
    ['no', 'yes', 'yes', 'no']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = (
        sklearn.neural_network.MLPClassifier._parameter_constraints | _CONSTRAINTS
    )

    def _check_data(self, X: Any, y: Any, incremental: bool) -> tuple[Any, NDArray[Any]]:
        X, y = _checked(self, X, y, incremental)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
            if self.warm_start and set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {self.classes_}, `y` has {classes}"
                )
            if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. "
                    f"`self.classes_` has {self.classes_}. 'y' has {classes}."
                )
        return X, self._label_binarizer.transform(y)

    def _output(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    @available_if(_is_stochastic)
    def partial_fit(self: T, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> T:
        """One epoch over these examples; the first call says all the `classes`."""
        if _check_partial_fit_first_call(self, classes):
            is_multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if is_multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each example, or all its labels."""
        y_hat = self._outputs(X)
        return self._label_binarizer.inverse_transform(
            y_hat.ravel() if self.n_outputs_ == 1 else y_hat
        )

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probability of each class, in the order of `classes_`."""
        y_hat = self._outputs(X)
        return np.hstack([1 - y_hat, y_hat]) if self.n_outputs_ == 1 else y_hat

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """The logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False)
class _Loss:
    """scikit-learn has the loss before all other parameters."""

    loss: Any = "squared_error"


@dataclass(eq=False, repr=False)
class MLPRegressor(RegressorMixin, _MLP, _Loss):
    """A multilayer perceptron for numbers, as `sklearn.neural_network.MLPRegressor` is.

    `hidden_sizes` is this package's word for `hidden_layer_sizes`; where it is given, it counts.
    All parameters and attributes of scikit-learn's class are here under their names.

    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(hidden_sizes=(20,), activation="tanh", solver="lbfgs", random_state=1)
    >>> bool(model.fit(X, np.sin(3 * X[:, 0])).score(X, np.sin(3 * X[:, 0])) > 0.99)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = (
        sklearn.neural_network.MLPRegressor._parameter_constraints
        | _CONSTRAINTS
        | {"loss": [StrOptions({"squared_error", "poisson"})]}
    )

    def _check_data(self, X: Any, y: Any, incremental: bool) -> tuple[Any, NDArray[Any]]:
        X, y = _checked(self, X, y, incremental, y_numeric=True)
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError(f"loss='poisson' needs targets of 0 or more, got {y.min()}")
        return X, y.reshape(len(y), -1)

    def _output(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    @available_if(_is_stochastic)
    def partial_fit(self: T, X: Any, y: Any, sample_weight: Any = None) -> T:
        """One epoch over these examples."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """ŷ of each example, one number or a row of them."""
        y_hat = self._outputs(X)
        return y_hat.ravel() if y_hat.shape[1] == 1 else y_hat


class _Order:
    """The order of the examples, epoch after epoch, as scikit-learn draws it."""

    def __init__(
        self, rows: NDArray[Any], batch_size: int, random_state: np.random.RandomState | None
    ) -> None:
        """Without a `random_state` the rows stay in their order."""
        self.rows, self.random_state = rows, random_state
        self.place = np.arange(len(rows))
        num_batches = -(-len(rows) // batch_size)
        if num_batches == 1:  # so that folds and small sets share programs
            batch_size = -(-batch_size // 64) * 64
        self.shape = max(1, min(32, 2**16 // (num_batches * batch_size))), num_batches, batch_size

    def draw(self, max_epochs: int, filler: int) -> NDArray[np.int32]:
        """The rows of the next epochs, and behind them `filler`, a row of weight 0."""
        state = None if self.random_state is None else self.random_state.get_state()
        self._before: tuple[Any, Any] = state, self.place
        orders = np.full((self.shape[0], self.shape[1] * self.shape[2]), filler, np.int32)
        for order in orders[:max_epochs]:
            self._shuffle()
            order[: len(self.rows)] = self.rows[self.place]
        return orders.reshape(self.shape)

    def _shuffle(self) -> None:
        if self.random_state is not None:
            self.place = shuffle(self.place, random_state=self.random_state)

    def rewind(self, num_used: int) -> None:
        """Leaves the generator as if only `num_used` epochs of the last ones had been drawn."""
        if self.random_state is not None and num_used < self.shape[0]:
            state, self.place = self._before
            self.random_state.set_state(state)
            for _ in range(num_used):
                self._shuffle()


def _checked(
    estimator: _MLP, X: Any, y: Any, incremental: bool, **checks: Any
) -> tuple[Any, NDArray[Any]]:
    X, y = validate_data(
        estimator,
        X,
        y,
        accept_sparse=["csr", "csc"],
        multi_output=True,
        dtype=_FLOATS,
        reset=estimator._is_first(incremental),
        **checks,
    )
    return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
