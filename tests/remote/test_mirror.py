"""A run that is mirrored goes on elsewhere as if nothing had happened; what cannot be right is refused by name."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from cnnjax import config
from cnnjax.config import ConfigError, Stopped
from cnnjax.data.dataset import Dataset
from cnnjax.remote import lock as locks
from cnnjax.remote import manifest as manifests
from cnnjax.remote import mirror as mirrors
from cnnjax.remote import pull
from cnnjax.remote import store as stores
from cnnjax.remote.mirror import attached
from cnnjax.remote.store import Store, StoreError
from cnnjax.runs import plan, train
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import InUse, Workdir

ROOT = Path(__file__).parents[2]
QUICK = config.replace(
    config.Experiment(),
    {
        "model.name": "softmax_regression", "data.batch_size": 10, "train.epochs": 0.0, "train.steps": 8,
        "train.evaluate_every": 0.5, "train.checkpoint_every": 0.5, "optimizer.learning_rate": 0.01,
    },
)  # fmt: skip


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(mirrors, "AT_THE_END", 3.0)
    monkeypatch.setattr(mirrors, "AT_A_SIGNAL", 1.0)


@pytest.fixture
def tiny_data(monkeypatch):
    rng = np.random.default_rng(0)
    split = {
        "image": rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, 40).astype(np.int32),
    }
    monkeypatch.setattr(plan, "load", lambda *_: Dataset("x", split, split, tuple("0123456789")))


class Fell(Exception):
    """The machine went."""


def mirrored(url, folder, fall_at=None):
    with attached(str(url), Workdir(folder)) as saved:

        def after(step):
            saved(step)
            if step == fall_at:
                raise Fell

        train.train_run(QUICK, Workdir(folder), None, "", saved=after)


def state(folder):
    """What a run came to: checksums of its last state, and its lines but for times."""
    with CheckpointStore(Workdir(folder).checkpoints) as store:
        sums = store.describe()["checksums"]
    lines = Workdir(folder).read_metrics()
    times = ("seconds", "images_per_second")
    return sums, [{k: v for k, v in line.items() if k not in times} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


def objects(url):
    return set(Store(url).names(manifests.FILES))


def minimal(folder, **files):
    """A workdir of one checkpoint, as far as a mirror looks."""
    for name, content in {"config.json": "{}", "checkpoints/4/state": "four", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Workdir(folder)


def pushed(url, folder, **files):
    with attached(str(url), minimal(folder, **files)):
        pass


def test_a_run_goes_on_in_another_folder_bit_for_bit(url, tmp_path, undisturbed, tiny_data):
    if not Workdir(undisturbed).has_run():
        train.train_run(QUICK, Workdir(undisturbed), None, "")
    with pytest.raises(Fell):
        mirrored(url, tmp_path / "a", fall_at=4)
    assert manifests.newest(Store(url)).step == 4
    shutil.rmtree(tmp_path / "a")
    mirrored(url, tmp_path / "b")
    assert state(tmp_path / "b") == state(undisturbed)
    found = manifests.newest(Store(url))
    assert {"report.html", "metrics.jsonl", "config.json", "plots/curves.png"} <= set(found.files)
    assert objects(url) == set(found.objects.values())  # what is named by none has gone
    assert Store(url).read(locks.NAME) is None
    assert not [path for path in found.files if path.startswith(".")]
    # The same workdir, done: nothing is pushed, and it is what the mirror holds.
    mirrored(url, tmp_path / "b")
    assert manifests.newest(Store(url)) == found
    copy = pull.local_folder(str(url))
    assert state(copy) == state(undisturbed)


KILLED = """
import os, signal, sys
from cnnjax.remote import manifest
commit, left = manifest.commit, [1]
def killed(*arguments):
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left.pop()
    commit(*arguments)
manifest.commit = killed
from cnnjax.__main__ import program
sys.argv = ["launch.py", *sys.argv[1:]]
program()
"""
FLAGS = ("--experiment=digits_lenet", "--model.name=softmax_regression", "--data.limit=60", "--data.batch_size=20",
         "--train.steps=40", "--train.checkpoint_every=1", "--train.evaluate_every=0")  # fmt: skip


def process(folder, *flags, program=None):
    """Launches as a user does."""
    start = ["-c", program] if program else [str(ROOT / "launch.py")]
    command = [sys.executable, *start, *FLAGS, f"--workdir={folder}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched") / "run"
    assert process(folder).returncode == 0
    return folder


@pytest.mark.slow
def test_kill_9_between_push_and_manifest_and_another_folder_goes_on(url, tmp_path, launched):
    """The first push is whole, the second one is killed with all of its objects in the store."""
    ended = process(tmp_path / "a", f"--mirror={url}", program=KILLED)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    first = manifests.newest(Store(url))
    assert first.number == 1 and first.step > 0
    assert objects(url) > set(first.objects.values())
    shutil.rmtree(tmp_path / "a")
    other = process(tmp_path / "b", f"--mirror={url}")  # the lock of a process that was killed here is none
    assert other.returncode == 0, other.stderr
    assert f"pulled from mirror {url}: step {first.step}" in other.stdout and "going on" in other.stdout
    assert state(tmp_path / "b") == state(launched)
    last = manifests.newest(Store(url))
    assert last.step == 40 and objects(url) == set(last.objects.values())


@pytest.mark.slow
def test_a_signal_pushes_and_ends_with_75(tmp_path):
    url = f"file://{tmp_path}/store"
    flags = [*FLAGS[:-3], "--train.steps=100000", "--train.evaluate_every=0", "--train.checkpoint_every=0"]
    command = [
        sys.executable,
        str(ROOT / "launch.py"),
        *flags,
        f"--workdir={tmp_path / 'a'}",
        f"--mirror={url}",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "a/metrics.jsonl").exists():
            assert running.poll() is None
            time.sleep(0.2)
        for _ in range(3):  # as Slurm sends them
            running.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        said = running.communicate(timeout=120)[1]
    assert running.returncode == 75, said
    with CheckpointStore(tmp_path / "a/checkpoints") as store:
        assert manifests.newest(Store(url)).step == store.steps()[-1] > 0
    assert Store(url).read(locks.NAME) is None


def test_a_damaged_and_a_missing_object_are_refused_by_name(url, tmp_path):
    pushed(url, tmp_path / "a")
    store = Store(url)
    name = manifests.newest(store).objects["checkpoints/4/state"]
    store.write(name, b"flip")
    for use in (lambda: pushed_to_new(url, tmp_path / "b"), lambda: pull.local_folder(str(url))):
        with pytest.raises(ConfigError, match=f"{url}: {name} is damaged") as found:
            use()
        assert "\n" not in str(found.value)
    store.remove(name)
    with pytest.raises(ConfigError, match=f"{url}: {name} is missing"):
        pushed_to_new(url, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert store.read(locks.NAME) is None


def pushed_to_new(url, folder):
    with attached(str(url), Workdir(folder)):
        pass


def test_a_manifest_that_was_half_written_is_not_seen_and_damaged_ones_are_named(tmp_path):
    url = f"file://{tmp_path}/store"
    pushed(url, tmp_path / "a")
    store = Store(url)
    (name,) = store.names(manifests.FOLDER)
    content = store.read(name)
    store.write("manifests/00000002.json", content[: len(content) // 2])
    assert manifests.newest(store).number == 1
    store.remove("manifests/00000002.json")
    store.write(name, content.replace(b'"size": 2', b'"size": 3'))
    with pytest.raises(ConfigError, match="manifests/00000001.json is damaged"):
        manifests.newest(store)


def test_a_manifest_that_leads_out_of_the_folder_is_refused(tmp_path):
    store = Store(f"file://{tmp_path}/store")
    manifests.commit(store, manifests.Manifest(1, "x", {"../config.json": manifests.Entry("0" * 64, 1)}))
    with pytest.raises(ConfigError, match="leads out of the folder"):
        manifests.newest(store)


def test_of_two_machines_the_second_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.2)
    monkeypatch.setattr(locks, "STALE", 20.0)
    with attached(str(url), minimal(tmp_path / "a")):
        monkeypatch.setattr(locks, "_LOOK", 0.3)
        with pytest.raises(InUse, match=f"mirror {url} is in use by process {os.getpid()} of "):
            pushed_to_new(url, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def other_owner(store, **about):
    owner = dataclasses.replace(locks.Owner.of_this_process(), key="another", host="elsewhere", **about)
    store.write(locks.NAME, json.dumps(dataclasses.asdict(owner)).encode())


def test_a_lock_without_a_heartbeat_is_taken_over(url, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE", 0.5)
    store = Store(url)
    for content in (None, b"{half"):
        other_owner(store, machine="another") if content is None else store.write(locks.NAME, content)
        began = time.monotonic()
        pushed(url, tmp_path / "a")
        assert time.monotonic() - began > 0.5
    assert store.read(locks.NAME) is None


def test_what_another_machine_took_over_is_not_pushed_to(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    url = f"file://{tmp_path}/store"
    with pytest.raises(ConfigError, match="taken over by process .* of elsewhere: nothing more is pushed"):
        with attached(url, minimal(tmp_path / "a")):
            other_owner(Store(url), machine="another")
            time.sleep(0.5)
    assert manifests.newest(Store(url)) is None


def test_a_push_that_another_one_overtook_is_refused(url):
    """Whatever the lock says: a number is given once."""
    store, entry = Store(url), {"config.json": manifests.Entry("0" * 64, 1)}
    manifests.commit(store, manifests.Manifest(1, "x", entry))
    manifests.commit(store, manifests.Manifest(1, "x", entry))  # an answer that was lost on its way
    with pytest.raises(manifests.MovedOn, match="moved on by another machine"):
        manifests.commit(store, manifests.Manifest(1, "y", entry))


def test_a_mirror_of_another_run_or_of_later_states_is_refused(tmp_path):
    url = f"file://{tmp_path}/store"
    pushed(url, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"holds a state \(step 4\) that is not of workdir .*/other"):
        pushed(url, tmp_path / "other")
    with attached(url, Workdir(tmp_path / "b")):  # goes on from it
        minimal(tmp_path / "b", **{"checkpoints/8/state": "eight"})
    with pytest.raises(ConfigError, match=r"\(step 8\) .* give an empty --workdir to go on from it"):
        pushed(url, tmp_path / "a")
    pushed(url, tmp_path / "b")


def test_a_push_whose_note_was_lost_is_known_as_ones_own(tmp_path):
    url = f"file://{tmp_path}/store"
    pushed(url, tmp_path / "a")
    before = (tmp_path / "a/.mirror/state.json").read_text()
    pushed(url, tmp_path / "a", **{"checkpoints/8/state": "eight"})
    (tmp_path / "a/.mirror/state.json").write_text(before)
    pushed(url, tmp_path / "a", **{"checkpoints/12/state": "twelve"})
    assert manifests.newest(Store(url)).step == 12


def test_a_kill_while_pulling_leaves_a_folder_that_is_pulled_again(tmp_path, monkeypatch):
    url = f"file://{tmp_path}/store"
    pushed(url, tmp_path / "a")

    def killed(staging, folder):
        (folder / "checkpoints").mkdir(exist_ok=True)
        (staging / "checkpoints/4").replace(folder / "checkpoints/4")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pull, "_move", killed)
        with pytest.raises(KeyboardInterrupt):
            pushed_to_new(url, tmp_path / "b")
    pushed_to_new(url, tmp_path / "b")
    assert (tmp_path / "b/checkpoints/4/state").read_text() == "four"
    assert (tmp_path / "b/config.json").exists() and not (tmp_path / "b/.mirror/pulled").exists()


@pytest.fixture
def down(monkeypatch):
    """Lets transfers to stores fail as long as the returned event is set."""
    failing, put = threading.Event(), Store.put

    def broken(self, files):
        if failing.is_set():
            raise StoreError(f"{self.url}: cannot be reached")
        put(self, files)

    monkeypatch.setattr(Store, "put", broken)
    return failing


def test_a_store_that_is_down_warns_and_is_tried_again(tmp_path, down, monkeypatch, caplog):
    monkeypatch.setattr(mirrors, "_DELAYS", (0.1,))
    url = f"file://{tmp_path}/store"
    down.set()
    with attached(url, minimal(tmp_path / "a")) as saved:
        saved(4)
        while "tried again" not in caplog.text:
            time.sleep(0.05)
        assert manifests.newest(Store(url)) is None
        down.clear()
        while manifests.newest(Store(url)) is None:  # by itself
            time.sleep(0.05)
    assert f"mirror {url}: cannot be reached; tried again in" in caplog.text


def test_a_store_that_is_down_at_the_end_is_an_error_then(tmp_path, down):
    url = f"file://{tmp_path}/store"
    down.set()
    with pytest.raises(
        ConfigError, match="cannot be reached; the run is whole in .*/a: launch again to push it"
    ):
        pushed(url, tmp_path / "a")
    with pytest.raises(Stopped, match="stopped by a signal; the last states are here only: mirror") as found:
        with attached(url, minimal(tmp_path / "a")):
            raise Stopped("stopped by a signal")
    assert found.value.status == 75
    down.clear()
    pushed(url, tmp_path / "a")
    assert manifests.newest(Store(url)).step == 4


def test_checkpoints_that_are_unfinished_or_removed_meanwhile_are_not_pushed(tmp_path, monkeypatch):
    url = f"file://{tmp_path}/store"
    files = {"checkpoints/8/state": "eight", "checkpoints/9.orbax-checkpoint-tmp/state": "x", "plots/.a": "x"}
    workdir = minimal(tmp_path / "a", **files)
    link = os.link

    def removing(source, target):
        if "/4/" in str(source):
            shutil.rmtree(workdir.checkpoints / "4", ignore_errors=True)
        link(source, target)

    monkeypatch.setattr(os, "link", removing)
    with attached(url, workdir):
        pass
    assert set(manifests.newest(Store(url)).files) == {"config.json", "checkpoints/8/state"}


def test_file_systems_without_links_are_copied_from(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    url = f"file://{tmp_path}/store"
    pushed(url, tmp_path / "a")
    assert manifests.newest(Store(url)).step == 4


@pytest.mark.full
def test_modes_that_look_at_runs_take_the_url(tmp_path, launch, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/store/run"
    local = launch(*FLAGS, f"--workdir={tmp_path / 'a'}", f"--mirror={url}")
    assert local.code == 0, local.err
    output = f"--output={tmp_path / 'out'}"
    found = [launch("--mode=evaluate", f"--workdir={where}", output) for where in (tmp_path / "a", url)]
    assert found[0].code == found[1].code == 0, found[1].err
    assert found[0].out == found[1].out and "accuracy" in found[0].out
    both = launch("--mode=evaluate", f"--workdir={tmp_path / 'a'},{url}", output)
    assert both.code == 0 and "committee" in both.out, both.err
    assert launch("--mode=layers", f"--workdir={url}").code == 0
    compared = launch("--mode=compare", f"--workdirs={tmp_path / 'a'},{url}", output)
    assert compared.code == 0 and url in compared.out, compared.err
    picture = ROOT / "docs/scenes_grid.png"
    needs = launch("--mode=predict", f"--workdir={url}", f"--inputs={picture}")
    assert needs.code == 1 and needs.err.strip().endswith("needs --output=PATH on this machine")
    assert launch("--mode=export", f"--workdir={url}", f"--output={tmp_path / 'n.stablehlo'}").code == 0
    begun = launch(*FLAGS, f"--workdir={tmp_path / 'b'}", f"--train.init_from={url}")
    assert begun.code == 0 and "2 of 2 arrays" in begun.out, begun.out + begun.err
    gone = launch("--mode=evaluate", f"--workdir=file://{tmp_path}/nothing", output)
    assert gone.code == 1 and "nothing holds no mirrored run" in gone.err


def test_a_copy_in_the_cache_follows_the_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/store/run"
    pushed(url, tmp_path / "a")
    first = pull.local_folder(url)
    assert first == pull.local_folder(url)
    pushed(url, tmp_path / "a", **{"checkpoints/8/state": "eight"})
    second = Path(pull.local_folder(url))
    assert (second / "checkpoints/8/state").read_text() == "eight" and not Path(first).exists()
    assert pull.local_folder(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_no_bucket_no_server_and_no_credentials_are_one_line_in_time(kind, request, tmp_path, monkeypatch):
    request.getfixturevalue(f"at_{kind}")
    monkeypatch.setattr(stores, "PATIENCE", 6.0)
    monkeypatch.setattr(locks, "_LOOK", 0.2)

    def refused(url):
        began = time.monotonic()
        with pytest.raises(ConfigError) as found:
            pushed_to_new(url, tmp_path / "new")
        assert "\n" not in str(found.value) and url in str(found.value)
        assert time.monotonic() - began < 30
        assert not (tmp_path / "new").exists()
        return str(found.value)

    assert "no such bucket" in refused(f"{kind}://nobucket/run")
    variable = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[kind]
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert "cannot be reached" in (text := refused(f"{kind}://bkt/run")) or "no answer" in text
    if kind == "s3":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        assert "no credentials were found" in refused("s3://bkt/run")
    else:
        monkeypatch.delenv(variable)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        refused("gs://bkt/run")


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_server_that_never_answers_ends_in_time(kind, request, tmp_path, monkeypatch, silent):
    request.getfixturevalue(f"at_{kind}")
    monkeypatch.setattr(stores, "PATIENCE", 1.0)
    monkeypatch.setenv({"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[kind], f"http://{silent}")
    with pytest.raises(ConfigError, match="no answer within 1 seconds"):
        pushed_to_new(f"{kind}://bkt/run", tmp_path / "new")


def test_urls_that_cannot_be_one(tmp_path):
    known = {} if find_spec("s3fs") else {"s3://x/run": "s3:// needs s3fs: pip install 'cnnjax\\[cloud\\]'"}
    for url, text in {
        **known,
        "zzz://x/run": "Protocol not known: zzz",
        "abfs://x/run": "Install adlfs",
        f"file://{tmp_path}/new/mirror": "cannot lie in the workdir",
        f"{tmp_path}": "cannot lie in the workdir .* nor around it",
    }.items():
        with pytest.raises(ConfigError, match=text):
            pushed_to_new(url, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_url_as_workdir_of_training_names_the_mirror(launch):
    found = launch("--workdir=s3://bucket/run")
    assert found.code == 1 and "--workdir=s3://bucket/run: a URL cannot be used here" in found.err
    assert found.err.strip().endswith(
        "give a path on this machine and the URL as --mirror, a copy in a store"
    )
    found = launch("--mode=evaluate", "--workdir=x", "--mirror=s3://bucket/run")
    assert "--mirror has no effect with mode=evaluate" in found.err
