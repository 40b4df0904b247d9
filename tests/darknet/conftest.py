"""Models compile without most optimizations here: less than half the time, the same numbers."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
