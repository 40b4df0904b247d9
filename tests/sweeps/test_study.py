"""A search with Optuna: what a trial is, who takes it up again, pruning, the winner, and who may not."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import cnnjax as cj
from cnnjax.config import ConfigError, Stopped
from cnnjax.sweeps import choice, search, space, study
from cnnjax.sweeps.processes import Ended
from cnnjax.sweeps.search import Search, run_search
from cnnjax.sweeps.sweep import Sweep

optuna = pytest.importorskip("optuna", reason="Optuna is an optional extra")
ROOT = Path(__file__).parents[2]
QUICK = {
    "model.name": "softmax_regression", "data.limit": 200, "data.batch_size": 20, "train.epochs": 0.0,
    "train.steps": 6, "data.validation": 0.2, "train.evaluate_every": 0.3,
}  # fmt: skip
FLAGS = [f"--{name}={value}" for name, value in QUICK.items()]
BASE = cj.replace(cj.experiments.digits_lenet(), QUICK)
RATES = ("optimizer.learning_rate=1e-4..1:log",)
EVALUATIONS = 4


class FakeRun:
    """In place of a process: an evaluation at each look; the nearer the rate is to 0.03, the better."""

    seen: list["FakeRun"] = []

    def __init__(self, workdir, data_dir, slot, slots):
        self.workdir, self.asked = workdir, False
        self.rate = json.loads(workdir.config.read_text())["optimizer"]["learning_rate"]
        self.claim = workdir.claim()
        self.claim.__enter__()
        FakeRun.seen.append(self)

    def ended(self):
        if self.asked:
            return self._end(Ended(stopped=True))
        if self.rate == 0.5:
            return self._end(Ended("loss is not finite"))
        count = len(self.workdir.read_metrics())
        if count == EVALUATIONS:
            (self.workdir.path / "report.html").write_text("")
            return self._end(Ended())
        with open(self.workdir.metrics, "a") as file:
            score = 1 - abs(self.rate - 0.03) - 0.1 / (count + 1)
            file.write(json.dumps({"step": count, "split": "test", "accuracy": score}) + "\n")
        return None

    def _end(self, how):
        if self.claim:
            self.claim.__exit__(None, None, None)
            self.claim = None
        return how

    def stop(self):
        self.asked = True

    def wait(self):
        return self._end(Ended(stopped=True))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(search, "Running", FakeRun)
    monkeypatch.setattr(search, "_PAUSE", 0.001)
    monkeypatch.setattr(search, "_GLANCE", 0.01)
    monkeypatch.setattr(FakeRun, "seen", [])
    monkeypatch.setattr(choice, "_test", lambda *_: {"accuracy": 0.5})


def make(path, words=RATES, trials=12, base=BASE, **more):
    path.mkdir(exist_ok=True)
    more = {"storage": f"journal:{path / 'journal'}", **more}
    return Search(Sweep(path, base, space.parse(words)), trials, **more)


def states(trials):
    return [one.state.name for one in trials]


def test_a_search_beats_the_own_settings_and_uses_the_test_set_once(tmp_path, capsys, monkeypatch):
    trials = run_search(make(tmp_path, trials=20))
    out = capsys.readouterr().out
    assert len(trials) == 20 and set(states(trials)) <= {"COMPLETE", "PRUNED"}
    default = trials[0]
    assert default.params == {"optimizer.learning_rate": 3e-3} and default.user_attrs["default"]
    whole = [one for one in trials if one.state.name == "COMPLETE"]
    best = max(whole, key=lambda one: one.value)
    assert best.value > default.value
    (name,) = json.loads((tmp_path / "test.json").read_text())
    rate = float(name.partition("=")[2])
    assert rate == pytest.approx(best.params["optimizer.learning_rate"], rel=1e-3)
    assert f"best: {name}  accuracy {best.value:.4f} on validation data, 0.5000 on the test set" in out
    assert "(the experiment's own settings)" in out
    page = (tmp_path / "search.html").read_text()
    assert page.count('src="data:image/png') == 4 and "http://" not in page and "https://" not in page
    for words in ("Parallel coordinates", "Which settings matter", "History", "On the test set"):
        assert words in page
    monkeypatch.setattr(choice, "_test", lambda *_: pytest.fail("the test set was used again"))
    assert len(run_search(make(tmp_path, trials=20))) == 20
    assert not any(path.name.startswith(".") for path in (tmp_path / "runs").iterdir())


def test_a_program_gets_the_runs_of_its_search(tmp_path):
    rates, where = {"optimizer.learning_rate": [3e-3, 0.1, 0.5]}, f"journal:{tmp_path / 'journal'}"
    runs = cj.search(BASE, rates, tmp_path / "own", trials=8, storage=where, prune=False)
    found = {one.settings["optimizer.learning_rate"]: one for one in runs}
    assert len(found) == len(runs) == 3
    assert {rate: one.error for rate, one in found.items()} == {
        3e-3: "",
        0.1: "",
        0.5: "loss is not finite",
    }
    assert found[0.1].done and found[0.1].headline > 0.8
    (name,) = json.loads((tmp_path / "own" / "test.json").read_text())
    assert name == max(runs, key=lambda one: one.headline or 0).name
    with pytest.raises(cj.ConfigError, match="holds another search"):
        cj.search(BASE, {"optimizer.learning_rate": "0.1..1"}, tmp_path / "own")


def test_a_trial_ends_at_an_evaluation_below_the_median_and_not_without_pruning(tmp_path):
    trials = run_search(make(tmp_path / "a", trials=20))
    pruned = [one for one in trials if one.state.name == "PRUNED"]
    assert pruned and {len(one.intermediate_values) for one in trials} >= {EVALUATIONS}
    for one in pruned:
        at = one.last_step
        whole = [other for other in trials[: one.number] if other.state.name == "COMPLETE"]
        before = [other.intermediate_values.get(at) for other in whole]
        assert one.number >= 5 and at < EVALUATIONS
        assert one.value < np.median([value for value in before if value is not None])
    trials = run_search(make(tmp_path / "b", trials=10, prune=False))
    assert set(states(trials)) == {"COMPLETE"}


def test_trials_follow_from_their_numbers_and_what_was_found(tmp_path):
    first, second = (run_search(make(tmp_path / name, trials=14)) for name in "ab")
    assert [one.params for one in first] == [one.params for one in second]
    assert len({one.params["optimizer.learning_rate"] for one in first}) == 14


def test_settings_of_every_kind_come_back_as_they_were(tmp_path):
    words = (
        "optimizer.name=sgd,adamw;optimizer.learning_rate=0.1,0.001", "data.batch_size=10..40", "augment.sizes=32+48,64",
        "optimizer.nesterov=true,false", "optimizer.weight_decay=1e-5..1e-2:log",
    )  # fmt: skip
    varied = space.parse(words)
    about = {"experiment": {}, "space": varied.to_json(), "draws": 0}
    shared = study.open_study(
        "s", f"journal:{tmp_path / 'j'}", about, varied, dict.fromkeys(varied.names, 0), False, 9
    )
    for _ in range(8):
        trial, settings = shared.ask(8)
        assert list(settings) == list(varied.names)
        assert (settings["optimizer.name"], settings["optimizer.learning_rate"]) in {
            ("sgd", 0.1),
            ("adamw", 1e-3),
        }
        assert settings["augment.sizes"] in {(32, 48), (64,)} and isinstance(
            settings["optimizer.nesterov"], bool
        )
        assert isinstance(settings["data.batch_size"], int) and 10 <= settings["data.batch_size"] <= 40
        decay = settings["optimizer.weight_decay"]
        assert decay == float(f"{decay:.4g}") and 1e-5 <= decay <= 1e-2
        assert shared.settings(shared.trials[trial.number]) == settings
    assert shared.ask(8) is None and not shared.over(8)


def test_what_fails_is_a_row_and_what_cannot_be_meant_together_too(tmp_path, capsys):
    words = ("optimizer.learning_rate=0.01,0.5", "optimizer.name=sgd,adamw", "optimizer.nesterov=false,true")
    base = cj.replace(BASE, {"optimizer.name": "sgd"})
    run_search(make(tmp_path, words, trials=25, base=base))
    rows = json.loads((tmp_path / "results.json").read_text())
    failed = {row["state"] for row in rows if row["state"].startswith("failed")}
    assert "failed: loss is not finite" in failed and len(rows) == 25
    assert any("has no effect with optimizer.name=adamw" in state for state in failed)
    assert "learning_rate=0.01" in json.loads((tmp_path / "test.json").read_text()).popitem()[0]


def test_a_lost_workers_trial_is_taken_up_with_the_same_values_and_counted_once(tmp_path, capsys):
    asked = make(tmp_path, trials=4, silence=0.3)
    lost = asked.open()
    first, _ = lost.ask(4)
    second, settings = lost.ask(4)  # and now the worker is killed
    trials = run_search(asked, jobs=2)
    out = capsys.readouterr().out
    assert out.count("its worker is gone, taken up again") == 2 and len(trials) == 4
    assert set(states(trials)) == {"COMPLETE"} and [one.number for one in trials] == [2, 3, 4, 5]
    again = [one for one in trials if one.user_attrs.get("again")]
    assert {one.params["optimizer.learning_rate"] for one in again} == {
        first.params["optimizer.learning_rate"], second.params["optimizer.learning_rate"]
    }  # fmt: skip
    assert sum(bool(one.user_attrs.get("default")) for one in trials) == 1  # which was the first
    with pytest.raises(study.Taken):  # it was only asleep
        lost.tell(second, "COMPLETE", 1.0)


def test_a_trial_whose_workers_are_lost_again_and_again_is_given_up(tmp_path):
    asked = make(tmp_path, trials=2, silence=0.05)
    shared = asked.open()
    deaths = 0
    while (found := shared.ask(2)) and found[0].params["optimizer.learning_rate"] == 3e-3:
        deaths += 1
        while not shared.take_up_lost([]):
            time.sleep(0.02)
    assert deaths == 4
    while not shared.take_up_lost([]):
        time.sleep(0.02)
    trials = run_search(asked)
    assert sorted(states(trials)) == ["COMPLETE", "FAIL"]
    rows = json.loads((tmp_path / "results.json").read_text())
    assert "failed: its workers were lost, one after the other" in {row["state"] for row in rows}


@pytest.mark.full
def test_a_signal_gives_trials_back_at_once_and_others_go_on(tmp_path, monkeypatch):
    stop = threading.Event()
    asked = make(tmp_path, trials=5)
    worker = search._Worker(asked, asked.open(), 2, stop)
    monkeypatch.setattr(FakeRun, "ended", lambda self: stop.set())
    worker.work()
    monkeypatch.undo()
    monkeypatch.setattr(search, "Running", FakeRun)
    monkeypatch.setattr(choice, "_test", lambda *_: {"accuracy": 0.5})
    waiting = [one for one in asked.open().trials if one.state.name == "WAITING"]
    assert len(waiting) == 2 and all(one.user_attrs["again"] == 0 for one in waiting)
    trials = run_search(asked)
    assert set(states(trials)) == {"COMPLETE"} and len(trials) == 5
    assert waiting[0].system_attrs["fixed_params"] == trials[0].params

    @search.contextlib.contextmanager
    def already():
        event = threading.Event()
        event.set()
        yield event

    monkeypatch.setattr(search, "stop_on_signal", already)
    with pytest.raises(Stopped, match="2 of 7 trials left; launch again to go on"):
        run_search(make(tmp_path, trials=7))


def test_a_run_that_another_process_trains_is_waited_for_and_its_result_is_taken(tmp_path):
    asked = make(tmp_path, ("optimizer.learning_rate=0.003,0.03",), trials=1)
    shared = asked.open()
    member = asked.member({"optimizer.learning_rate": 0.003})
    member.prepare()
    orphan = FakeRun(member.workdir, None, 0, 1)
    worker = search._Worker(asked, shared, 1, threading.Event())
    thread = threading.Thread(target=worker.work)
    thread.start()
    while orphan.ended() is None:
        time.sleep(0.02)
    thread.join(30)
    assert FakeRun.seen == [orphan]
    assert shared.trials[0].value == pytest.approx(1 - 0.027 - 0.025)


def test_the_own_settings_outside_of_the_space_are_not_tried(tmp_path):
    trials = run_search(make(tmp_path, ("optimizer.learning_rate=0.1..0.2",), trials=2))
    assert not any(one.user_attrs.get("default") for one in trials)


def test_two_workers_begin_no_trial_too_many(tmp_path):
    one, two = (make(tmp_path, trials=3).open() for _ in range(2))
    asked = [shared.ask(3) for shared in (one, two, one)]
    assert all(asked) and two.ask(3) is None
    for shared, found in zip((one, two, one), asked, strict=True):
        shared.tell(found[0], "COMPLETE", 0.5)
    assert one.over(3) and two.over(3) and one.finished() == 3


OPEN = """
import sys
from cnnjax.sweeps import space, study
about = {"experiment": {}, "space": [], "draws": 0}
varied = space.parse(["optimizer.learning_rate=1e-4..1:log"])
default = {"optimizer.learning_rate": 3e-3}
print(len(study.open_study("s", f"sqlite:///{sys.argv[1]}/s.db", about, varied, default, True, 60.0).trials))
"""


@pytest.mark.slow
def test_four_workers_open_a_new_database_at_the_same_moment(tmp_path):
    found = [
        subprocess.Popen([sys.executable, "-c", OPEN, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]  # fmt: skip
    told = [process.communicate()[1].decode() for process in found]
    assert [process.returncode for process in found] == [0] * 4, told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sweep=optimizer.rate=1",), "there is no such setting"),
        (("--sweep=train.log_every=1,2",), "no effect on the numbers"),
        (("--sweep=optimizer.nesterov=true",), "optimizer.nesterov has no effect with optimizer.name=adamw"),
        (("--sweep=train.seed=0:5",), "search of train.seed: a seed is luck"),
        ((*[f"--sweep={w}" for w in RATES], "--sweep.draws=3"), "--sweep.draws has no effect with mode=search"),
        ((*[f"--sweep={w}" for w in RATES], "--search.trials=1001"), "a search of 1,001 runs: with --yes"),
        ((*[f"--sweep={w}" for w in RATES], "--data.validation=0"), "of which there is none: give --data.validation"),
        ((), "mode=search needs --workdir"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(flags, message, launch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = launch("--mode=search", *FLAGS, *flags)
    assert told.code == 1 and message in told.err and len(told.err.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_search_another_study_and_other_folders_are_refused(tmp_path, launch):
    make(tmp_path / "a").open()
    with pytest.raises(ConfigError, match="holds another search; .* differs in what it varies"):
        make(tmp_path / "a", ("optimizer.learning_rate=0.1..1",)).open()
    with pytest.raises(
        ConfigError, match="study 'digits_lenet' is about something else: .* optimizer.ema: 0.0 -> 0.5"
    ):
        other = cj.replace(BASE, {"optimizer.ema": 0.5})
        make(tmp_path / "b", base=other, storage=f"journal:{tmp_path / 'a' / 'journal'}").open()
    told = launch("--mode=sweep", *FLAGS, f"--workdir={tmp_path / 'a'}", "--sweep=train.seed=0:2")
    assert told.code == 1 and "holds a search, not a sweep" in told.err
    told = launch("--mode=search", f"--workdir={tmp_path / 'c'}")
    assert told.code == 1 and "holds no search" in told.err
    optuna.create_study(storage=study._storage(f"journal:{tmp_path / 'j'}"), study_name="mine").add_trial(
        optuna.create_trial(value=0.0)
    )
    with pytest.raises(ConfigError, match="study 'mine' was not made by mode=search"):
        make(tmp_path / "d", study="mine", storage=f"journal:{tmp_path / 'j'}").open()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "--search.storage=nonsense cannot be opened"),
        ("sqlite:////no/such/folder/x.db", "cannot be opened"),
        ("journal:/no/such/folder/x", "cannot be opened"),
        ("oracle+oracledb://me:secret@localhost/x", r"me:\*\*\*@localhost/x needs oracledb: pip install it"),
    ],
)
def test_a_storage_that_is_none_is_one_line_without_its_password(url, message, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_TRIES", 2)
    with pytest.raises(ConfigError, match=message) as told:
        make(tmp_path, storage=url).open()
    assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_without_optuna_one_line_says_what_to_install(launch, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    told = launch("--mode=search", *FLAGS, f"--sweep={RATES[0]}")
    assert told.code == 1 and "a search needs Optuna: pip install optuna" in told.err


def start(folder, *flags):
    command = [
        sys.executable,
        ROOT / "launch.py",
        "--mode=search",
        *FLAGS,
        f"--sweep={RATES[0]}",
        "--workdir=search",
    ]
    return subprocess.Popen(
        [*command, *flags], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip


@pytest.mark.full
def test_trials_are_ordinary_runs_and_the_dashboard_reads_their_study(tmp_path, launch, monkeypatch):
    process = start(tmp_path, "--search.trials=2", "--sweep.jobs=2")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "2 of 2  learning_rate=" in out and "page: search/search.html" in out
    found = optuna.load_study(
        study_name="digits_lenet", storage=f"sqlite:///{tmp_path / 'search' / 'search.db'}"
    )
    for trial in found.trials:
        run = cj.load_run(trial.user_attrs["run"].partition(":")[2])
        assert run.metrics["accuracy"] == trial.value
        assert run.experiment.optimizer.learning_rate == pytest.approx(
            trial.params["optimizer.learning_rate"], rel=1e-3
        )


@pytest.mark.slow
def test_thirty_trials_by_two_workers_of_which_one_is_killed_are_all_finished(tmp_path):
    flags = ("--search.trials=30", "--search.silence=5")
    killed, other = start(tmp_path, *flags), start(tmp_path, *flags)
    while len(list(tmp_path.glob("search/runs/*/report.html"))) < 6:
        assert killed.poll() is None and other.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    out, err = other.communicate()
    assert other.returncode == 0, err
    assert "its worker is gone, taken up again" in out
    rows = json.loads((tmp_path / "search" / "results.json").read_text())
    assert len(rows) == 30 and {row["state"] for row in rows} <= {"done", "pruned"}
    done = {
        row["settings"]["optimizer.learning_rate"]: row["accuracy"] for row in rows if row["state"] == "done"
    }
    assert max(done.values()) > done[BASE.optimizer.learning_rate]
    assert len(json.loads((tmp_path / "search" / "test.json").read_text())) == 1
