"""float64 is available, 8 CPU devices stand ready, and an accidental broadcast is an error."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import jax
import matplotlib

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
matplotlib.use("Agg")
