"""Strict numerics for every test: no implicit promotion, no reused key, full matmul precision."""

import os
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def shared():
    """`shared(path)` is a file or folder of the shared data, or skips the test where it is missing."""

    def find(path: str) -> Path:
        full = Path(os.environ.get("CNNJAX_SHARED", "/nonexistent")) / path
        if not full.exists():
            pytest.skip(f"{path} is not here: set CNNJAX_SHARED")
        return full

    return find
