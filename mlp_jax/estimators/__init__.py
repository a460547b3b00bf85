"""`MLPClassifier` and `MLPRegressor` in scikit-learn's interface.

The only folder whose import imports scikit-learn.
"""

from mlp_jax.estimators.mlp import MLPClassifier as MLPClassifier
from mlp_jax.estimators.mlp import MLPRegressor as MLPRegressor
