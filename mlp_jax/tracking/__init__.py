"""Runs in MLflow. A run's directory is the truth about it, and a store is a mirror of that.

Nothing here knows a network, a config or a data set: it is given numbers, texts and files.
"""

from mlp_jax.tracking.bulk import write
from mlp_jax.tracking.facts import RunRecord
from mlp_jax.tracking.recovery import deliver
from mlp_jax.tracking.run import Run, begin
from mlp_jax.tracking.search import runs
from mlp_jax.tracking.store import check

__all__ = ["Run", "RunRecord", "begin", "check", "deliver", "runs", "write"]
