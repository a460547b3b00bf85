import jax
import pytest


@pytest.fixture
def compiled_quickly():
    """For tests of many shapes and few steps: XLA does without its dear optimizations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
