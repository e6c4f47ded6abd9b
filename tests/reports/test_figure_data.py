"""The data of figures: confusions, features and exemplars from the checkpoints of a run."""

import json
import shutil

import numpy as np
import pytest
from report_helpers import NAMES, only

from mnemonics_jax.config.parsing import read_config
from mnemonics_jax.data import load
from mnemonics_jax.reports.figure_data import load_figure_data, spread


@pytest.mark.parametrize("name", ["icarl-random", "icarl-herding", "icarl-mnemonics", "finetune-random"])
def test_confusions_add_up_to_the_summary(runs, name):
    run = only(runs / name)
    confusion = load_figure_data(run).confusion
    assert set(confusion.names) == set(NAMES)
    assert confusion.counts.sum(axis=1).tolist() == [20] * 4
    num_correct = np.diag(confusion.counts)
    assert 100 * num_correct.sum() / 80 == pytest.approx(run.summary["last_accuracy"])
    groups = np.split(num_correct, np.cumsum(confusion.sizes)[:-1])
    assert [100 * group.mean() / 20 for group in groups] == pytest.approx(run.summary["accuracy_matrix"][-1])


def test_the_log_tells_what_exemplars_began_as(runs):
    found = {kind: load_figure_data(only(runs / f"icarl-{kind}")) for kind in ("random", "herding", "mnemonics")}
    for kind in ("random", "herding"):
        assert found[kind].missing == ()
        np.testing.assert_array_equal(found[kind].starts, found[kind].exemplars)
    learned = found["mnemonics"]
    assert (learned.starts != learned.exemplars).any()
    assert learned.exemplar_classes == found["herding"].exemplar_classes
    # In the base phase the two have the same model, and learning starts from herding.
    np.testing.assert_array_equal(learned.starts[:2], found["herding"].starts[:2])
    data = load(read_config(runs / "icarl-mnemonics" / "config.json").data)
    for name, images in zip(learned.exemplar_classes, learned.starts, strict=True):
        own = {image.tobytes() for image in data.train_images[data.train_labels == NAMES.index(name)]}
        assert {image.tobytes() for image in images} <= own


def test_snapshots_are_of_the_classes_seen(runs):
    early, late = load_figure_data(only(runs / "icarl-herding")).snapshots
    assert (early.phase, late.phase) == (1, 2)
    for shot, classes in ((early, 3), (late, 4)):
        assert set(shot.data_labels) == set(shot.exemplar_labels) == set(range(classes))
        assert np.bincount(shot.data_labels).tolist() == [20] * classes
        assert np.bincount(shot.exemplar_labels).tolist() == [4] * classes
        assert len(shot.data) == 20 * classes
        assert len(shot.exemplars) == 4 * classes
    # Random and herding exemplars are training images, so their features are among those of the data.
    for features, label in zip(late.exemplars, late.exemplar_labels, strict=True):
        own = late.data[late.data_labels == label]
        assert np.abs(own - features).max(axis=1).min() < 1e-4
    assert load_figure_data(only(runs / "finetune-random")).snapshots[1].exemplars.shape[0] == 0


def test_a_spread_has_both_ends_and_no_class_twice():
    assert spread(3, 10).tolist() == [0, 1, 2]
    assert spread(100, 5).tolist() == [0, 25, 50, 74, 99]


def test_the_starting_images_are_shown_only_where_the_log_names_them(runs, tmp_path):
    shutil.copytree(runs / "icarl-mnemonics", tmp_path / "run")
    run = only(tmp_path / "run")
    chosen = run.named("chosen")
    for changed in (
        [],
        chosen[:-1],
        [{**chosen[0], "images": [[0, 1, 2, 3]] * 2}, *chosen[1:]],
        [{**c, "images": "x"} for c in chosen],
    ):
        others = [event for event in run.events if event["event"] != "chosen"]
        (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in (*others, *changed)))
        found = load_figure_data(only(tmp_path / "run"))
        assert found.starts is None
        assert found.exemplars is not None
        assert "does not name the images" in found.missing[0]


def test_an_early_phase_without_a_checkpoint_is_left_out(runs, tmp_path):
    shutil.copytree(runs / "icarl-mnemonics", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "0002-0-begin")
    found = load_figure_data(only(tmp_path / "run"))
    assert [shot.phase for shot in found.snapshots] == [2]
    assert "no features after phase 1" in found.missing[0]
