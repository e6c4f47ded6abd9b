"""Seeds at once: each ends as it would alone, to rounding, in a folder of its own; what ends one leaves the others."""

import _thread
import dataclasses
import json
import re
import signal

import jax
import numpy as np
import pytest
from helpers import TELLING, Listening, child_process, events, final_state, result, signal_at

from mnemonics_jax import cli
from mnemonics_jax.phase import model_level
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runs.preemption import STOPPED
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.errors import RunsFailedError, UserError
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps import vmap_seeds as seeds
from mnemonics_jax.sweeps.comparison import compare
from mnemonics_jax.sweeps.jobs import FAILURE, Job, Outcome, run_jobs

SEEDS = 3
REAL_PAYS = seeds.pays

CHILD = f"""{TELLING}
from mnemonics_jax.sweeps import vmap_seeds
vmap_seeds.pays = lambda: True
run_jobs(argument, out, Telling(), save, vmap_seeds=len(argument) > 1)
print(num_compilations())
"""


@pytest.fixture(scope="module", autouse=True)
def _pays():
    """Run the vmapped program on the CPU too, where users get their seeds in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "pays", lambda: True)
        yield


@pytest.fixture(scope="module")
def jobs(tiny):
    """Batches of 60: the class orders differ in their numbers of training steps, from phase 0 on."""
    parts = {"stream": {"phases": 1}, "train": {"epochs": 2, "batch_size": 60, "chunk_steps": 8}}
    return [Job(f"seed{seed}", tiny.config("icarl", "mnemonics", seed=seed, **parts)) for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def together(jobs, tmp_path_factory):
    """The seeds at once: (folder, outcome)."""
    out = tmp_path_factory.mktemp("together")
    return out, run_jobs(jobs, out, Display(), vmap_seeds=True)


@pytest.fixture(scope="module")
def alone(jobs, tmp_path_factory):
    """Each seed by itself: (folder, summaries)."""
    out = tmp_path_factory.mktemp("alone")
    return out, {job.name: run_in_folder(job.config, out / job.name, Display()) for job in jobs}


def results(out, jobs):
    return [result(out / job.name, "shared_base_model") for job in jobs]


def test_every_seed_ends_as_alone(jobs, together, alone):
    steps = set()
    for job in jobs:
        ours, theirs = together[1].summaries[job.name], alone[1][job.name]
        assert ours["seed"] == theirs["seed"] == job.config.seed
        # Rounding may turn one of 180 test images after few steps; another class order or other batches turn dozens.
        np.testing.assert_allclose(ours["accuracy"], theirs["accuracy"], atol=1.0)
        mine, others = events(together[0] / job.name), events(alone[0] / job.name)
        assert [(e["event"], e["phase"], e.get("step")) for e in mine] == [
            (e["event"], e["phase"], e.get("step")) for e in others
        ]
        steps.add(-(-len(make_setup(job.config).stream.train_indices(0)) // job.config.train.batch_size))
        for name in ("loss", "outer_loss_before", "outer_loss_after", "gradient_norm"):
            pairs = [(a[name], b[name]) for a, b in zip(mine, others, strict=True) if name in a]
            assert len(pairs) >= 2
            np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-4)
        a, b = final_state(job.config, together[0] / job.name), final_state(job.config, alone[0] / job.name)
        # Sums are added up in another order: differences of a few times float32's rounding, 6e-8, after 60 steps.
        for x, y in zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
        assert np.mean(a.memory.images != b.memory.images) < 0.01
        assert np.array_equal(a.memory.counts, b.memory.counts)
        assert np.array_equal(a.key, b.key)
    assert len(steps) > 1, "the class orders take different numbers of steps"
    accuracies = [summary["accuracy"] for summary in alone[1].values()]
    assert len(set(map(tuple, accuracies))) == SEEDS


def test_every_seed_has_its_own_folder_as_alone(jobs, together, alone):
    for job in jobs:
        mine, theirs = together[0] / job.name, alone[0] / job.name
        ours, alones = (json.loads((folder / "config.json").read_text()) for folder in (mine, theirs))
        # The arithmetic is another: so many runs at once.
        assert [plain["record"].pop("arithmetic")[0]["runs_at_once"] for plain in (ours, alones)] == [SEEDS, 1]
        assert ours == alones
        names = [
            {path.relative_to(folder).parts[:2] for path in folder.rglob("*") if "events" not in path.name}
            for folder in (mine, theirs)
        ]
        assert names[0] == names[1]
        # A run begun among others is any run: alone it is found to be finished.
        assert run_in_folder(job.config, mine, Display()) == together[1].summaries[job.name]


def test_one_seed_that_fails_leaves_the_others(jobs, together, tmp_path, monkeypatch):
    second = initial_state(make_setup(jobs[1].config)).key
    original = model_level.TrainingLoop

    def diverging(program, settings, samples, start, context, streams):
        if streams.phase == 1 and np.array_equal(streams.key, second):
            settings = dataclasses.replace(settings, learning_rate=1e20)
        return original(program, settings, samples, start, context, streams)

    monkeypatch.setattr(model_level, "TrainingLoop", diverging)
    outcome = run_jobs(jobs, tmp_path, Display(), vmap_seeds=True)
    assert list(outcome.failures) == ["seed1"]
    assert "phase 1: the training loss is not finite at step" in outcome.failures["seed1"]
    assert (tmp_path / "seed1" / FAILURE).exists()
    others = [jobs[0], jobs[2]]
    # Not a bit of theirs depends on what the failed one left in its lane.
    assert results(tmp_path, others) == results(together[0], others)
    with pytest.raises(RunsFailedError, match=r"1 of 3 runs failed \(seed1\)"):
        outcome.complete(tmp_path)
    # The same command tries it again, from its last checkpoint.
    monkeypatch.setattr(model_level, "TrainingLoop", original)
    again = run_jobs(jobs, tmp_path, Display(), vmap_seeds=True)
    assert not again.failures
    assert not (tmp_path / "seed1" / FAILURE).exists()
    assert results(tmp_path, jobs) == results(together[0], jobs)


def test_sigterm_saves_every_seed_and_the_same_command_goes_on(jobs, together, tmp_path):
    out = tmp_path / "run"
    with child_process(CHILD, jobs, tmp_path / "jobs.pickle", out) as process:
        # When one seed tells of its last exemplars in phase 1, its first ones are saved, and all have begun the phase.
        signal_at(process, "phase 1 exemplars 6", signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == STOPPED, said
    assert "stopped by SIGTERM; the same command goes on from 0001-1-exemplars" in said
    for job in jobs:
        assert list((out / job.name / "checkpoints").glob("0001-*"))
    run_jobs(jobs, out, Display(), SaveConfig(5, 2, 0.0), vmap_seeds=True)
    assert results(out, jobs) == results(together[0], jobs)


def test_ctrl_c_saves_every_seed_and_the_same_command_goes_on(jobs, together, tmp_path):
    class Impatient(Display):
        def beside(self, title):
            return Impatient()

        def advance(self, done, **values):
            if self._stage == "phase 1 training":
                _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, tmp_path, Impatient(), vmap_seeds=True)
    for job in jobs:
        assert not (tmp_path / job.name / "summary.json").exists()
        assert list((tmp_path / job.name / "checkpoints").glob("0001-*"))
    run_jobs(jobs, tmp_path, Display(), vmap_seeds=True)
    assert results(tmp_path, jobs) == results(together[0], jobs)


def test_three_seeds_compile_no_more_programs_than_one(jobs, tmp_path):
    counts = []
    for number in (1, SEEDS):
        with child_process(CHILD, jobs[:number], tmp_path / "jobs.pickle", tmp_path / str(number)) as process:
            told, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        counts.append(int(told.split()[-1]))
    assert counts[1] <= counts[0]


def test_only_the_seed_may_differ_in_a_group(tiny):
    configs = [tiny.config("lwf", kind, seed=seed) for seed in (0, 5) for kind in ("random", "herding")]
    configs.append(tiny.config("lwf", "random", train={"epochs": 9}))
    assert seeds.groups(configs) == [[0, 2], [1, 3], [4]]


def test_what_cannot_be_one_program_is_refused(tiny, tmp_path, monkeypatch):
    config = tiny.config("icarl", "mnemonics")
    seeds.check(config, 2)
    needed = 2 * seeds.learning_bytes(config.exemplars, make_setup(config).net, 40, (8, 8, 1))
    monkeypatch.setattr(seeds, "planned_bytes", lambda: needed - 1)
    seeds.check(config, 1)
    with pytest.raises(UserError, match=r"--vmap-seeds: .* 2 runs at once .*fewer seeds"):
        run_jobs(
            [Job(str(s), dataclasses.replace(config, seed=s)) for s in (0, 1)], tmp_path, Display(), vmap_seeds=True
        )
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(UserError, match="--vmap-seeds needs a single device, and there are 4"):
        seeds.check(tiny.config("lwf", "random"), 1)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    asked = []

    def noting(jobs, out, display, save=None, *, vmap_seeds=False, **_):
        asked.append((jobs, out, vmap_seeds))
        raise UserError("enough")

    monkeypatch.setattr("mnemonics_jax.sweeps.jobs.run_jobs", noting)
    monkeypatch.setattr("mnemonics_jax.sweeps.comparison.run_jobs", noting)
    for words in (
        ["run", "digits", "--seed", "3", "--vmap-seeds", "2", "--out", str(tmp_path / "a")],
        ["run", "digits", "--method", "lwf", "--exemplars", "random", "--seed", "3", "--vmap-seeds", "2"],
        ["compare", "digits", "--methods", "lwf", "--exemplars", "random", "--seeds", "2", "--vmap-seeds"],
    ):
        with pytest.raises(SystemExit):
            cli.main(words)
    assert [[(job.name, job.config.seed) for job in jobs] for jobs, *_ in asked] == [
        [("seed3", 3), ("seed4", 4)],
        [("seed3", 3), ("seed4", 4)],
        [("lwf-random-seed0", 0), ("lwf-random-seed1", 1)],
    ]
    assert asked[0][1] == tmp_path / "a"
    assert re.fullmatch(r"digits-lwf-random-seed3-4-[0-9a-f]{6}", asked[1][1].name)
    assert all(at_once for *_, at_once in asked)
    for words, message in ((["0"], "--vmap-seeds 0"), (["2", "--distributed"], "leave out --distributed")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", "digits", "--vmap-seeds", *words])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert len(asked) == 3


def test_a_comparison_of_seeds_at_once_has_the_runs_of_one_by_one(tiny, tmp_path, monkeypatch):
    started = []

    def noting(jobs, out, display, save=None, *, vmap_seeds=False, **_):
        started.append(([job.name for job in jobs], vmap_seeds))
        return Outcome({job.name: {} for job in jobs}, {})

    monkeypatch.setattr("mnemonics_jax.sweeps.comparison.run_jobs", noting)
    arms = {("lwf", "random"): tiny.config("lwf", "random")}
    for at_once in (False, True):
        compare(arms, 2, tmp_path, Display(), vmap_seeds=at_once)
    assert started[0][0] == started[1][0]
    assert [at_once for _, at_once in started] == [False, True]


def test_on_a_cpu_the_seeds_run_in_order(jobs, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "pays", REAL_PAYS)
    monkeypatch.setattr(seeds, "run_at_once", lambda *_: pytest.fail("at once"))
    display = Listening()
    summaries = run_jobs(jobs[:2], tmp_path, display, vmap_seeds=True).summaries
    assert any("run one after the other" in line for line in display.said)
    assert [s["accuracy"] for s in summaries.values()] == [alone[1][job.name]["accuracy"] for job in jobs[:2]]
