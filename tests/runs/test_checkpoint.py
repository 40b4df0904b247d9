import gc
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.benchmarks.faults import damage
from cnnjax.config import ConfigError
from cnnjax.runs.checkpoint import CheckpointStore

# Orbax leaves its other reads unfinished when one of them fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def unfinished_reads():
    """Are not left for the next test to find; what was there before is not looked through."""
    gc.freeze()
    yield
    gc.collect()


def make_state(value: float, width: int = 4):
    params = {"dense": {"kernel": jnp.full((3, width), value), "bias": jnp.zeros((width,), jnp.bfloat16)}}
    return {"params": params, "opt": optax.adamw(1e-3).init(params), "key": jax.random.key(7)}


def abstract(state):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), state)


def save_all(directory, headlines, **keep):
    with CheckpointStore(directory, **keep) as store:
        for step, headline in enumerate(headlines):
            store.save(step, make_state(float(step)), headline, {"note": f"step {step}"})


def test_keeps_the_newest_and_the_best_and_describes_them(tmp_path):
    save_all(tmp_path, [0.1, 0.9, 0.2, 0.3, None], keep_last=2, keep_best=1)
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [1, 3, 4]
        assert store.best() == 1
        assert store.describe(3)["note"] == "step 3"


def test_round_trip_is_exact(tmp_path):
    save_all(tmp_path, [0.5])
    wanted = make_state(0.0)
    with CheckpointStore(tmp_path) as store:
        step, state = store.restore_newest(abstract(wanted))
    assert step == 0
    assert jax.tree.structure(state) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {**s, "params": make_state(0.0, width=5)["params"]},
            "is 4 bfloat16 there and 5 bfloat16 here",
        ),
        (lambda s: {**s, "more": jnp.zeros(())}, r"\['more'\] is only here"),
        (lambda s: {k: v for k, v in s.items() if k != "key"}, r"\['key'\] is only there"),
        (
            lambda s: jax.tree.map(lambda a: a.astype(jnp.float16) if a.dtype == jnp.float32 else a, s),
            "float16 here",
        ),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, change, message):
    save_all(tmp_path, [0.5])
    with CheckpointStore(tmp_path) as store, pytest.raises(ConfigError, match=message):
        store.restore_newest(abstract(change(make_state(0.0))))


def _damage(kind, folder):
    data = max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if kind == "cut":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif kind == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 0xFF
        data.write_bytes(content)
    elif kind == "no metadata":
        (folder / "_CHECKPOINT_METADATA").unlink()
    elif kind == "no manifest":
        (folder / "state" / "manifest.ocdbt").unlink()


@pytest.mark.parametrize("kind", ["cut", "flip", "no metadata", "no manifest"])
def test_a_damaged_checkpoint_is_reported_and_passed_over(tmp_path, kind, caplog):
    save_all(tmp_path, [0.1, 0.2])
    _damage(kind, tmp_path / "1")
    with CheckpointStore(tmp_path) as store:
        step, state = store.restore_newest(abstract(make_state(0.0)))
    assert step == 0
    assert float(state["params"]["dense"]["kernel"][0, 0]) == 0.0
    assert "1" in caplog.text and "trying the one before" in caplog.text


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    save_all(folder, [0.1, 0.2])
    return folder


@pytest.mark.parametrize("seed", range(24))
def test_damage_at_random_is_never_loaded_as_if_it_were_right(tmp_path, two_checkpoints, seed, caplog, capfd):
    shutil.copytree(two_checkpoints, tmp_path / "all")
    damage(tmp_path / "all" / "1", np.random.default_rng(seed))
    with CheckpointStore(tmp_path / "all") as store:
        about = store.describe()
        step, state = store.restore_newest(abstract(make_state(0.0)))
    for a, b in zip(
        jax.tree.leaves(state["params"]), jax.tree.leaves(make_state(step)["params"]), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert about["note"] in ("step 0", "step 1")
    assert step == 1 or "trying the one before it" in caplog.text  # else it did no harm
    assert "Traceback" not in capfd.readouterr().err and "Traceback" not in caplog.text


def test_a_save_leaves_no_thread_behind(tmp_path):
    with CheckpointStore(tmp_path) as store:
        counts = []
        for step in range(12):
            store.save(step, make_state(0.0), None, {})
            store.wait()
            counts.append(threading.active_count())
    assert counts[-1] <= counts[2]


def test_a_clock_that_jumps_does_not_change_which_checkpoint_is_newest(tmp_path, two_checkpoints):
    shutil.copytree(two_checkpoints, tmp_path / "all")
    for path in (tmp_path / "all").rglob("*"):
        newest = path.relative_to(tmp_path / "all").parts[0] == "1"
        os.utime(path, (0, 0) if newest else (2**32, 2**32))
    with CheckpointStore(tmp_path / "all") as store:
        assert store.restore_newest(abstract(make_state(0.0)))[0] == 1


@pytest.mark.parametrize(
    "content", [b'{"headline": 0.9', b"\xff", b'{"headline": 0.9, "checksum": 1}', b"[]", b""]
)
def test_a_damaged_metric_is_reported_and_counts_no_more(tmp_path, two_checkpoints, content, caplog):
    shutil.copytree(two_checkpoints, tmp_path / "all")
    (tmp_path / "all" / "0" / "metrics" / "metrics").write_bytes(content)
    with CheckpointStore(tmp_path / "all") as store:
        assert store.steps() == [0, 1] and store.best() == 1
    assert "the metric of checkpoint" in caplog.text and "Traceback" not in caplog.text


def test_all_damaged_is_an_error(tmp_path):
    save_all(tmp_path, [0.1])
    _damage("cut", tmp_path / "0")
    with CheckpointStore(tmp_path) as store, pytest.raises(ConfigError, match="checkpoint .*0"):
        store.restore_newest(abstract(make_state(0.0)))
