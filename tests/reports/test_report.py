"""What a report makes of finished runs: the figure data in their checkpoints, the page, and what it says is missing."""

import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from mnemonics_jax import cli
from mnemonics_jax.data import load
from mnemonics_jax.reports import sections
from mnemonics_jax.reports.figure_data import load_figure_data, spread
from mnemonics_jax.reports.finished_runs import find_finished_runs, label_variants
from mnemonics_jax.reports.statistics import Arm, comparison
from mnemonics_jax.reports.tables import comparison_tables, run_table
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.progress import Display

EVIL = "<script>alert(1)<"
NAMES = ("<script>alert(1)</script>", "a$b^{", '"><img src=x onerror=alert(1)>', "dög")


def write_npz(path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 20)
    # Classes differ in brightness, so that something is learned.
    images = {
        f"{s}_images": rng.integers(0, 64, (80, 8, 8, 3), np.uint8) + labels[:, None, None, None]
        for s in ("train", "test")
    }
    images = {key: (value + 48 * labels[:, None, None, None]).astype(np.uint8) for key, value in images.items()}
    np.savez(path, **images, train_labels=labels, test_labels=labels, class_names=np.array(NAMES))


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Folder of runs: iCaRL with random, herding and learned exemplars, and fine-tuning."""
    folder = tmp_path_factory.mktemp("runs")
    write_npz(folder / f"{EVIL}.npz")
    for method, kind in (("icarl", "random"), ("icarl", "herding"), ("icarl", "mnemonics"), ("finetune", "random")):
        config = tiny.config(
            method,
            kind,
            data={"source": "npz", "path": str(folder / f"{EVIL}.npz")},
            stream={"phases": 2},
            train={"epochs": 2, "batch_size": 16},
        )
        run_in_folder(config, folder / "runs" / f"{method}-{kind}", Display(quiet=True))
    return folder / "runs"


def only(folder):
    return find_finished_runs([folder])[0]


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
    data = load(_config(only(runs / "icarl-mnemonics")).data)
    for name, images in zip(learned.exemplar_classes, learned.starts, strict=True):
        own = {image.tobytes() for image in data.train_images[data.train_labels == NAMES.index(name)]}
        assert {image.tobytes() for image in images} <= own


def _config(run):
    from mnemonics_jax.config.parsing import read_config

    return read_config(run.folder / "config.json")


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


def write_run(folder, *, events=(), settings=None, **summary):
    folder.mkdir(parents=True)
    plain = {
        **{"dataset": "digits", "method": "icarl", "exemplars": "mnemonics", "seed": 0, "average_accuracy": 50.0},
        **{"accuracy": [60.0, 40.0], "accuracy_matrix": [[60.0, None], [30.0, 50.0]], "seen_classes": [5, 10]},
        **{"average_accuracy_exemplar_model": None, "last_accuracy": 40.0, "forgetting": 30.0},
    }
    (folder / "summary.json").write_text(json.dumps({**plain, **summary}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if settings is not None:
        (folder / "config.json").write_text(json.dumps({"seed": summary.get("seed", 0), **settings}))


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


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    """The report of all runs, the run without memory without checkpoints."""
    out = tmp_path_factory.mktemp("report")
    shutil.copytree(runs, out / "runs")
    shutil.rmtree(out / "runs" / "finetune-random" / "checkpoints")
    arms = sorted((out / "runs").iterdir())
    cli.main(["report", *map(str, arms), "--out", str(out / "page")])
    return out / "page"


def test_the_page_needs_nothing_else_and_is_whole(report):
    page = Page(report / "report.html")
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed", "base", "form")]
    for image in page.all("img"):
        assert image["src"].startswith("data:image/png;base64,")
        assert len(image["alt"]) > 20
        assert int(image["width"]) > 100
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "content"):
            assert "http:" not in (attributes.get(name) or "")
            assert "https:" not in (attributes.get(name) or "")
    assert not re.search(r"@import|url\(|https?:", page.source)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [link["href"] for link in page.all("a")]
    assert len(anchors) == len(page.all("h2")) - 1, "every section but the table of contents"
    assert {anchor.removeprefix("#") for anchor in anchors} <= set(ids)
    labels = {attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes}
    assert labels <= set(ids)
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))


def test_names_from_elsewhere_are_text(report):
    page = Page(report / "report.html")
    assert "<script" not in page.source
    assert EVIL in "".join(page.text), "the data set's name"
    assert not [image for image in page.all("img") if image["src"] == "x"]


def test_the_page_shows_every_figure(report):
    page = Page(report / "report.html")
    drawn = sorted(path.name for path in (report / "figures").iterdir())
    assert drawn == [
        "confusion-icarl.png",
        "exemplars-icarl.png",
        "forgetting-finetune.png",
        "forgetting-icarl.png",
        "learned-icarl mnemonics.png",
        "outer_loss.png",
        "training-finetune.png",
        "training-icarl.png",
        "tsne-icarl.png",
    ]
    assert len(page.all("img")) == len(drawn) + 1, "and the accuracy"
    text = " ".join(" ".join(page.text).split())
    titles = ["Results", "Accuracy", "Forgetting by class group", "Confusions", "Exemplars", "Features"]
    assert all(title in text for title in [*titles, "Exemplar learning", "Training", "Settings", "Runs"])
    assert "What learning did, phase by phase" in text


def test_what_is_missing_is_said(report):
    text = " ".join(" ".join(Page(report / "report.html").text).split())
    assert re.search(
        r"Left out: finetune: .*finetune-random/checkpoints/0003-0-begin/manifest\.json cannot be read", text
    )
    assert "Not shown, because they have no exemplars: finetune." in text


def test_runs_without_anything_but_summaries_have_a_page(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", settings={"train": {"epochs": 1}})
    write_run(tmp_path / "runs" / "b", method="an <b>other", exemplars="own", seed=3)
    (tmp_path / "runs" / "b" / "metrics.jsonl").write_bytes(b"\xff\n")
    cli.main(["report", str(tmp_path / "runs")])
    page = Page(tmp_path / "runs" / "report.html")
    text = " ".join(page.text)
    assert "an <b>other" in text
    assert "Left out: icarl mnemonics:" in text
    assert "No run of this report has logged exemplar learning." in text
    assert "No run of this report has a metrics.jsonl that can be read." in text
    # Summaries of an older version have one kind of forgetting.
    rows = json.loads((tmp_path / "runs" / "comparison.json").read_text())
    assert [row["forgetting_mean"] for row in rows] == [30.0, 30.0]
    assert {row[f"{key}_mean"] for row in rows for key in ("average_forgetting", "backward_transfer")} == {None}
    assert " ".join(text.split()).count("30.00 – –") == 2
    assert f"report: {tmp_path}" in capsys.readouterr().out.replace("\n", "")


def table_lines(renderable, width=120):
    """What a terminal of that width shows."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text().splitlines()


def arms_of(tmp_path, **figures):
    """Comparison rows of arms with the longest names and figures, two class orders each."""
    for method in ("finetune", "lucir"):
        for seed in (0, 1):
            write_run(
                tmp_path / f"{method}{seed}", method=method, seed=seed, **{k: v - seed for k, v in figures.items()}
            )
            write_run(tmp_path / f"{method}{seed}-h", method=method, seed=seed, exemplars="herding")
    return comparison([run.summary for run in find_finished_runs([tmp_path])])


def test_tables_name_forgetting_apart_and_fit_120_columns(tmp_path):
    figures = {"forgetting": 30.5, "average_forgetting": 20.25, "backward_transfer": -110.0}
    figures |= {"average_accuracy_exemplar_model": 70.0}
    rows = arms_of(tmp_path, **figures)
    # A terminal without an end shows how wide the tables are.
    lines = table_lines(comparison_tables(rows), width=400)
    shown = [line for line in lines if "│" in line or "┃" in line]
    assert max(map(len, shown)) <= 120
    (head,) = [line for line in lines if "forgetting" in line and "┃" in line]
    assert [cell.strip() for cell in head.strip("┃").split("┃")][3:] == [
        "forgetting (base classes)",
        "forgetting (average)",
        "backward transfer",
    ]
    (first, _) = [line for line in lines if "lucir" in line and "mnemonics" in line]
    assert "50.00 ± 0.00" in first
    (second,) = [line for line in lines if "lucir" in line and "-110.50 ± 0.50" in line]
    cells = [cell.strip() for cell in second.strip("│").split("│")]
    assert cells == ["lucir", "mnemonics", "2", "30.00 ± 0.50", "19.75 ± 0.50", "-110.50 ± 0.50"]


def test_an_older_summary_has_a_dash_for_what_it_lacks(tmp_path):
    rows = arms_of(tmp_path, forgetting=30.5)
    lines = table_lines(comparison_tables(rows))
    (line,) = [line for line in lines if "lucir" in line and "30.00 ± 0.50" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][3:] == ["30.00 ± 0.50", "–", "–"]
    summary = {**only(tmp_path / "lucir0").summary, "memory_bytes": 1, "memory_dtype": "uint8", "seconds": 1.0}
    summary |= {"backend": "cpu", "compilations": 1, "accuracy_exemplar_model": None}
    caption = " ".join(run_table(summary).caption.split())
    assert "forgetting (base classes) 30.50 points, forgetting (average) –, backward transfer –; memory" in caption
    summary |= {"average_forgetting": 20.0, "backward_transfer": -15.0}
    caption = run_table(summary).caption
    assert "forgetting (average) 20.00 points, backward transfer -15.00 points; memory" in caption


def test_the_page_explains_and_shows_the_three_apart(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, average_forgetting=20.5 + seed, backward_transfer=-15.25)
    cli.main(["report", str(tmp_path)])
    text = " ".join(" ".join(Page(tmp_path / "report.html").text).split())
    assert "forgetting (base classes) forgetting (average) backward transfer" in text
    assert "30.00 ± 0.00 21.00 ± 0.50 −15.25 ± 0.00" in text
    for name in ("Forgetting (base classes):", "Forgetting (average):", "Backward transfer:"):
        assert name in text


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


def test_several_folders_need_an_out(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert caught.value.code == 2
    assert "2 folders: give the folder of their report with --out" in capsys.readouterr().err


def test_a_method_that_is_not_here_costs_only_its_figures(runs, tmp_path):
    shutil.copytree(runs / "icarl-random", tmp_path / "run")
    plain = json.loads((tmp_path / "run" / "config.json").read_text())
    plain["method"]["name"] = "own"
    (tmp_path / "run" / "config.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match="unknown method 'own'"):
        load_figure_data(only(tmp_path / "run"))
    cli.main(["report", str(tmp_path / "run")])
    assert "unknown method" in "".join(Page(tmp_path / "run" / "report.html").text)


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


def test_the_gates_decisions_are_a_table(tmp_path):
    closed = {"event": "gate", "phase": 0, "share": 0.0, "scores": [50.0, 49.0, 48.0, 47.0], "tell_apart": [None] * 4}
    opened = {"event": "gate", "phase": 1, "share": 0.5, "scores": [40.0, 41.0, 44.5, 43.0]}
    unchanged = {"event": "gate", "phase": 2, "share": 0.0, "scores": [], "tell_apart": []}
    events = [closed, opened | {"tell_apart": [None, None, 55.0, None]}, unchanged]
    write_run(tmp_path / "run", events=events)
    run = only(tmp_path / "run")
    side = sections.Side(Arm("icarl", "mnemonics", (run.summary,)), run, None, "")
    text = re.sub(r"<[^>]+>", "|", "".join(sections.learning([side], tmp_path, lambda _: None)))
    cells = [cell for cell in text.split("|") if cell.strip()]
    for row in (["0", "50.0", "49.0", "–", "0%"], ["1", "40.0", "44.5", "55", "50%"], ["2", "–", "–", "–", "0%"]):
        start = ["icarl mnemonics", *row]
        assert any(cells[i : i + len(start)] == start for i in range(len(cells))), (row, cells)
