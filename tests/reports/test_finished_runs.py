"""Finished runs as they are found and read: folders, logs, and names that tell variants apart."""

import dataclasses
import os

import numpy as np
import pytest
from report_helpers import only, write_run

from mnemonics_jax.reports.finished_runs import find_finished_runs, label_variants
from mnemonics_jax.runtime.errors import UserError


def test_logs_are_read_as_they_were_written(tmp_path):
    train = [
        {"event": "train", "phase": p, "epoch": e, "loss": p + e / 10, "accuracy": e}
        for p, e in ((0, 2), (0, 4), (1, 1), (1, 4))
    ]
    outer = [
        {"event": "outer", "phase": p, "problem": n, "step": 10, "loss": 0.1 * p + n} for p in (0, 1) for n in (0, 1)
    ]
    write_run(tmp_path / "run", events=[*train, *outer, {"event": "train", "phase": 1, "epoch": 5, "loss": "x"}, 3])
    run = only(tmp_path / "run")
    training = run.training()
    # Two chunks may pass between two logged epochs.
    assert training.epoch.tolist() == [2, 4, 5, 8, 9]
    assert training.starts == (0.0, 4)
    np.testing.assert_array_equal(training.loss, [0.2, 0.4, 1.1, 1.4, np.nan])
    assert run.outer_losses() == [([10], [0.0]), ([10], [0.1])]
    strange = [{"event": "outer", "problem": 0, "phase": p, "step": s} for p, s in ((0, "x"), (1, 10**400), ({}, 1))]
    write_run(tmp_path / "strange", events=[*strange, {"event": "outer", "problem": 0}])
    np.testing.assert_equal(only(tmp_path / "strange").outer_losses(), [([np.nan], [np.nan])] * 2)
    write_run(tmp_path / "silent")
    assert only(tmp_path / "silent").training() is None
    assert only(tmp_path / "silent").outer_losses() == []


def test_runs_of_one_arm_with_other_settings_are_labelled_differently(tmp_path):
    for name, settings, summary in (
        ("a", {"exemplars": {"unroll_length": 5}}, {}),
        ("b", {"exemplars": {"unroll_length": 5}}, {"seed": 1}),
        ("c", {"exemplars": {"unroll_length": 10}}, {}),
        ("d", {"exemplars": {"unroll_length": 5}}, {"exemplars": "herding"}),
        ("e", {"exemplars": {"unroll_length": 5}, "train": {"a": "long" * 9}}, {"exemplars": "random"}),
        ("f", {"exemplars": {"unroll_length": 5}, "train": {"a": "short"}}, {"exemplars": "random"}),
        ("g", {}, {"method": "joint", "exemplars": None}),
        ("h", {}, {"method": "joint", "exemplars": None, "dataset": "other"}),
    ):
        write_run(tmp_path / name, settings=settings, **summary)
    named = [run.arm for run in label_variants(find_finished_runs([tmp_path]))]
    assert named == [
        ("icarl", "mnemonics (unroll_length=5)"),
        ("icarl", "mnemonics (unroll_length=5)"),
        ("icarl", "mnemonics (unroll_length=10)"),
        ("icarl", "herding"),
        ("icarl", "random (variant 1)"),
        ("icarl", "random (variant 2)"),
        ("joint (digits)", None),
        ("joint (other)", None),
    ]


def test_folders_that_hold_one_another_count_once(tmp_path):
    write_run(tmp_path / "all" / "a")
    write_run(tmp_path / "all" / "b")
    runs = find_finished_runs([tmp_path / "all" / "b", tmp_path / "all"])
    assert [run.folder.name for run in runs] == ["b", "a"]
    (tmp_path / "all" / "a" / "summary.json").write_text('{"seed": 0}')
    with pytest.raises(UserError, match=r"a/summary\.json is not the summary of a run: it lacks dataset, method"):
        find_finished_runs([tmp_path])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("accuracy", value, "accuracy.* has to be") for value in (None, "x", 50.0, [], [60.0, None], [60.0, "x"])),
        *(("seed", value, "seed .* has to be") for value in (None, True, "0", -1, 10**400, 0.5, {})),
        *(("method", value, "method .* has to be text") for value in (None, ["icarl"], "\ud800")),
        *(("average_accuracy", value, "average_accuracy .* has to be") for value in ("50", float("nan"), 10**400)),
        *(("seconds", None, "seconds None: has to be"), ("memory_bytes", "big", "memory_bytes 'big': has to be")),
        *(("forgetting", "x", "forgetting 'x': has to be"), ("exemplars", {}, "exemplars {}: has to be text or none")),
        ("accuracy", [60.0], "accuracy_matrix has 2 entries for 1 phases"),
        ("seen_classes", [5], "seen_classes has 1 entries for 2 phases"),
        ("accuracy_exemplar_model", [1.0], "accuracy_exemplar_model has 1 entries for 2 phases"),
        ("accuracy_matrix", [[60.0], [30.0]], r"accuracy_matrix\[0\] has no number for each group"),
        ("accuracy_matrix", [[60.0, None], [None, 50.0]], r"accuracy_matrix\[1\] has no number for each group"),
    ],
)
def test_a_summary_of_other_types_is_refused(tmp_path, name, value, message):
    """Without its manifest, nothing else tells that a summary.json is not as a run has written it."""
    write_run(tmp_path / "run", **{name: value})
    with pytest.raises(UserError, match=rf"run/summary\.json is not the summary of a run: {message}"):
        find_finished_runs([tmp_path])


def test_outer_losses_are_logged_after_each_chunk(runs):
    run = only(runs / "icarl-mnemonics")
    events = run.named("outer")
    # Six outer steps in chunks of three, in each of three phases.
    assert [(e["phase"], e["step"], e["problem"], e["stage"]) for e in events] == [
        (phase, step, 0, "exemplars") for phase in range(3) for step in (3, 6)
    ]
    assert all(np.isfinite(event["loss"]) for event in events)
    assert [len(steps) for steps, _ in run.outer_losses()] == [2, 2, 2]
    assert dataclasses.is_dataclass(run)


def test_a_run_beside_may_remove_folders_while_a_report_looks_for_runs(tmp_path, monkeypatch):
    write_run(tmp_path / "done", settings={})
    (tmp_path / "running" / "checkpoints" / "old").mkdir(parents=True)
    (tmp_path / "running" / "more").mkdir()
    scandir = os.scandir

    def vanishing(path):
        # Between the listing of the folder above and that of this one, the run removes it.
        if str(path).endswith(("old", "more")):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert [run.folder.name for run in find_finished_runs([tmp_path])] == ["done"]
