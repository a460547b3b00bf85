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
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import sklearn.neural_network
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state, shuffle
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.network import Layer, Params
from mlp_jax.core.optimizers import OPTIMIZERS
from mlp_jax.estimators import epochs
from mlp_jax.estimators.epochs import Examples, Optimizer, Rule

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

    _theirs: ClassVar[Any]
    """scikit-learn's class."""

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
    def _output(self) -> str:
        """The output activation, by scikit-learn's name."""

    @abstractmethod
    def _score(self, y: NDArray[Any], y_hat: NDArray[Any], weight: NDArray[Any]) -> float:
        """What early stopping maximises: the accuracy, of all labels together, or the mean R²."""

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
            self._fit_lbfgs(examples)
        else:
            self._fit_stochastic(examples, X.shape[0], incremental)
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        return self

    def _check_data(self, X: Any, y: Any, incremental: bool) -> tuple[Any, NDArray[Any]]:
        """X as it is used, and the targets, one row an example."""
        X, y = self._theirs._validate_input(self, X, y, incremental, self._is_first(incremental))
        return X, y.reshape(len(y), -1)

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
        self.n_layers_, self.n_outputs_ = len(sizes), num_outputs
        self.out_activation_ = self._output()
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
        nesterov = bool(self.nesterovs_momentum)
        return Rule(self._activation(), self.out_activation_, self.solver, nesterov)

    def _params(self, dtype: Any) -> Params:
        """The lecture's W: (n_out, n_in), of scikit-learn's coefs_: (n_in, n_out)."""
        layers = zip(self.coefs_, self.intercepts_, strict=True)
        cast: Any = partial(np.asarray, dtype=dtype)
        return tuple(Layer(cast(coef.T), cast(intercept)) for coef, intercept in layers)

    def _set_coefs(self, params: Params, dtype: Any) -> None:
        self.coefs_ = [np.array(layer.W.T, dtype, order="C") for layer in params]
        self.intercepts_ = [np.array(layer.b, dtype) for layer in params]

    # --- sgd, adam and the core's other optimizers ---------------------------------------------

    def _fit_stochastic(self, examples: Examples, num_examples: int, incremental: bool) -> None:
        dtype, rows, held_out = examples.x.dtype, np.arange(num_examples), None
        if self.early_stopping:
            rows, held_out_rows = self._split(examples, rows)
            held_out = Examples(*(array[held_out_rows] for array in examples))
        order = np.full(self._batches(len(rows)), len(examples.x) - 1, np.int32)
        numbers = {name: np.asarray(getattr(self, name), dtype) for name in epochs.NUMBERS}
        max_epochs = 1 if incremental else self.max_iter
        self.n_iter_, is_done = 0, False
        with jax.enable_x64(dtype == np.float64):
            params = kept = self._params(dtype)
            optimizer = self._resumed(numbers, params, incremental)
            examples = jax.device_put(examples)
            try:
                while self.n_iter_ < max_epochs and not is_done:
                    rows = shuffle(rows, random_state=self._random_state) if self.shuffle else rows
                    order.flat[: len(rows)] = rows
                    (params, optimizer), loss = epochs.train_epoch(
                        self._rule(), numbers, examples, (params, optimizer), order, len(rows)
                    )
                    self._log(float(loss), len(rows))
                    if self._is_best(params, held_out) or held_out is None:
                        kept = params
                    eta, is_done = self._next_learning_rate(float(optimizer.learning_rate))
                    optimizer = optimizer._replace(learning_rate=np.asarray(eta, dtype))
            except KeyboardInterrupt:
                warnings.warn("Training interrupted by user.", stacklevel=4)
        self._optimizer = jax.device_get(optimizer)
        self._set_coefs(jax.device_get(kept), self.coefs_[0].dtype)
        if self.n_iter_ == self.max_iter and not (is_done or incremental):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _resumed(self, numbers: epochs.Numbers, params: Params, incremental: bool) -> Optimizer:
        """The optimizer as the last `partial_fit` left it, or a new one."""
        dtype = params[0].W.dtype
        if not incremental or not hasattr(self, "_optimizer"):
            eta = np.asarray(self.learning_rate_init, dtype)
            return epochs.new_optimizer(self._rule(), numbers, params, eta)
        return jax.tree.map(
            lambda leaf: leaf.astype(dtype) if leaf.dtype.kind == "f" else leaf, self._optimizer
        )

    def _log(self, loss: float, num_seen: int) -> None:
        self.n_iter_ += 1
        self.t_ += num_seen
        self.loss_ = loss
        self.loss_curve_.append(loss)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")

    def _is_best(self, params: Params, held_out: Examples | None) -> bool:
        """Whether the epoch has the best score so far, of what is held out or minus the loss."""
        if held_out is None:
            score, best = -self.loss_, -self.best_loss_
        else:
            y_hat = self._y_hat(params, held_out.x)
            is_finite = np.isfinite(y_hat).all()
            score = self._score(held_out.y, y_hat, held_out.weight) if is_finite else np.nan
            best = self.best_validation_score_
            self.validation_scores_.append(score)
            if self.verbose:
                print(f"Validation score: {score:f}")
        has_stalled = score < best + self.tol
        self._no_improvement_count = self._no_improvement_count + 1 if has_stalled else 0
        if score > best and held_out is None:
            self.best_loss_ = self.loss_
        elif score > best:
            self.best_validation_score_ = score
        return score > best

    def _next_learning_rate(self, eta: float) -> tuple[float, bool]:
        """That of the next epoch, and whether there is none."""
        rule = "constant" if self.solver == "adam" else self.learning_rate
        if rule == "invscaling":
            eta = self.learning_rate_init / (self.t_ + 1) ** self.power_t
        if self._no_improvement_count <= self.n_iter_no_change:
            return eta, False
        if rule == "adaptive" and eta > 1e-6:
            self._no_improvement_count = 0
            return eta / 5, False
        if self.verbose:
            name = "Validation score" if self.early_stopping else "Training loss"
            print(
                f"{name} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
                "consecutive epochs. Stopping."
            )
        return eta, True

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

    def _batches(self, num_examples: int) -> tuple[int, int]:
        """How many batches there are, and of how many examples."""
        batch_size = 200 if self.batch_size == "auto" else self.batch_size
        if batch_size > num_examples and self.batch_size != "auto":
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=5,
            )
        if batch_size >= num_examples:  # in multiples of 64: folds and small sets share programs
            return 1, -(-num_examples // 64) * 64
        return -(-num_examples // batch_size), batch_size

    # --- L-BFGS --------------------------------------------------------------------------------

    def _fit_lbfgs(self, examples: Examples) -> None:
        """SciPy's L-BFGS-B with the gradient by backprop, in float64 as scikit-learn's."""
        params = self._params(np.float64)
        with jax.enable_x64(True):
            theta, as_params = ravel_pytree(params)
            examples = jax.device_put(Examples(*(np.asarray(a, np.float64) for a in examples)))

            def value_and_gradient(theta: NDArray[Any]) -> tuple[float, NDArray[Any]]:
                value, grads = epochs.objective_at(
                    self._rule(), theta, params, np.float64(self.alpha), examples
                )
                return float(value), np.asarray(grads)

            result = scipy.optimize.minimize(
                value_and_gradient,
                theta,
                method="L-BFGS-B",
                jac=True,
                options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
            )
            params = jax.device_get(as_params(jnp.asarray(result.x)))
        self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
        self.loss_ = float(result.fun)
        self._set_coefs(params, self.coefs_[0].dtype)
        if self.verbose:
            print(f"L-BFGS: {result.message}, {result.nit} iterations, loss = {result.fun:.8f}")

    # --- using ---------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> NDArray[Any]:
        """ŷ, one row an example."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=_FLOATS, reset=False)
        X = X.toarray() if hasattr(X, "toarray") else X
        dtype = self._dtype()
        with jax.enable_x64(dtype == np.float64):
            return self._y_hat(self._params(dtype), X)

    def _y_hat(self, params: Params, X: NDArray[Any]) -> NDArray[Any]:
        rows = np.zeros((max(8, 1 << (len(X) - 1).bit_length()), X.shape[1]), params[0].W.dtype)
        rows[: len(X)] = X  # in powers of 2, so that few programs serve all numbers of rows
        y_hat = epochs.outputs(self._activation(), self.out_activation_, params, rows)
        return np.array(y_hat)[: len(X)]

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

    _theirs: ClassVar[Any] = sklearn.neural_network.MLPClassifier
    _parameter_constraints: ClassVar[Any] = _theirs._parameter_constraints | _CONSTRAINTS

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

    def _score(self, y: NDArray[Any], y_hat: NDArray[Any], weight: NDArray[Any]) -> float:
        by_class = self.out_activation_ == "softmax"
        found, wanted = (np.argmax(a, 1)[:, None] if by_class else a > 0.5 for a in (y_hat, y))
        return float(np.average((found == wanted).all(axis=1), weights=weight))

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

    _theirs: ClassVar[Any] = sklearn.neural_network.MLPRegressor
    _parameter_constraints: ClassVar[Any] = _theirs._parameter_constraints | _CONSTRAINTS

    def _check_data(self, X: Any, y: Any, incremental: bool) -> tuple[Any, NDArray[Any]]:
        X, y = super()._check_data(X, y, incremental)
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError(f"loss='poisson' needs targets of 0 or more, got {y.min()}")
        return X, y

    def _output(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _score(self, y: NDArray[Any], y_hat: NDArray[Any], weight: NDArray[Any]) -> float:
        return float(r2_score(y, y_hat, sample_weight=weight))

    @available_if(_is_stochastic)
    def partial_fit(self: T, X: Any, y: Any, sample_weight: Any = None) -> T:
        """One epoch over these examples."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """ŷ of each example, one number or a row of them."""
        y_hat = self._outputs(X)
        return y_hat.ravel() if y_hat.shape[1] == 1 else y_hat
