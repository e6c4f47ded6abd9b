"""The page: whole, safe whatever the names, with every figure, and with words for what is missing."""

import dataclasses
import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from helpers import Listening
from report_helpers import EVIL, Page, only, write_run

from mnemonics_jax import cli
from mnemonics_jax.reports import figures, page, sections
from mnemonics_jax.reports.figure_data import load_figure_data
from mnemonics_jax.reports.finished_runs import find_finished_runs
from mnemonics_jax.reports.parts import Folded, Plot, Section
from mnemonics_jax.reports.statistics import Arm
from mnemonics_jax.runtime.errors import UserError


def test_the_page_needs_nothing_else_and_is_whole(report):
    page = Page(report / "report.html")
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed", "base", "form")]
    assert not {tag for tag, _ in page.drawn} & {"script", "a", "style", "foreignObject", "animate", "set"}
    for image in page.all("img"):
        assert image["src"].startswith("data:image/png;base64,")
        assert len(image["alt"]) > 20
        assert int(image["width"]) > 100
    for _, attributes in page.tags + page.drawn:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "content"):
            assert "http:" not in (attributes.get(name) or "")
            assert "https:" not in (attributes.get(name) or "")
    assert not re.search(r"@import|url\(|https?:", page.source)
    ids = [attributes["id"] for _, attributes in page.tags + page.drawn if "id" in attributes]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
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
        "learned-icarl-mnemonics.png",
        "outer_loss.png",
        "training-finetune.png",
        "training-icarl.png",
        "tsne-icarl.png",
    ]
    shown = [attributes["data-figure"] for _, attributes in page.tags if "data-figure" in attributes]
    assert sorted(shown) == sorted(["accuracy", *(name.removesuffix(".png") for name in drawn)])
    assert len(page.all("img")) + len(page.all("svg")) == len(shown)
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


def test_the_page_explains_and_shows_the_three_apart(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, average_forgetting=20.5 + seed, backward_transfer=-15.25)
    cli.main(["report", str(tmp_path)])
    text = " ".join(" ".join(Page(tmp_path / "report.html").text).split())
    assert "forgetting (base classes) forgetting (average) backward transfer" in text
    assert "30.00 ± 0.00 21.00 ± 0.50 −15.25 ± 0.00" in text
    for name in ("Forgetting (base classes):", "Forgetting (average):", "Backward transfer:"):
        assert name in text


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


def test_the_gates_decisions_are_a_table(tmp_path):
    closed = {"event": "gate", "phase": 0, "share": 0.0, "scores": [50.0, 49.0, 48.0, 47.0], "tell_apart": [None] * 4}
    opened = {"event": "gate", "phase": 1, "share": 0.5, "scores": [40.0, 41.0, 44.5, 43.0]}
    unchanged = {"event": "gate", "phase": 2, "share": 0.0, "scores": [], "tell_apart": []}
    # Without its manifest, metrics.jsonl may hold anything.
    strange = [{"event": "gate", "phase": phase, "scores": "high", "tell_apart": 3} for phase in ("x", {}, None)]
    events = [closed, opened | {"tell_apart": [None, None, 55.0, None]}, unchanged | {"scores": ["x"]}, *strange]
    write_run(tmp_path / "run", events=events)
    run = only(tmp_path / "run")
    side = sections.Side(Arm("icarl", "mnemonics", (run.summary,)), run, None, "")
    (folded,) = [part for part in sections.learning([side]) if isinstance(part, Folded)]
    assert folded.table.content.cells == (
        ("icarl mnemonics", "0", "50.0", "49.0", "–", "0%"),
        ("icarl mnemonics", "1", "40.0", "44.5", "55", "50%"),
        ("icarl mnemonics", "2", "–", "–", "–", "0%"),
    )


def test_what_cannot_be_drawn_is_named_and_the_rest_is_there(runs, tmp_path, monkeypatch):
    """Identical features, on which scikit-learn's t-SNE ended the process; and a figure that fails."""
    real = page.load_figure_data

    def same_features(run, load):
        found = real(run, load)
        shots = [
            shot._replace(data=np.ones_like(shot.data), exemplars=np.ones_like(shot.exemplars))
            for shot in found.snapshots
        ]
        return dataclasses.replace(found, snapshots=tuple(shots))

    def fails(runs):
        raise RuntimeError("no <b>colours</b>")

    monkeypatch.setattr(page, "load_figure_data", same_features)
    monkeypatch.setattr(figures, "confusion_matrices", fails)
    display = Listening()
    runs = find_finished_runs([runs / "icarl-herding"])
    page.write_page(runs, tmp_path, display, page.PageConfig(workers=1))
    found = Page(tmp_path / "report.html")
    text = " ".join(" ".join(found.text).split())
    for phase in (1, 2):
        assert f"Not drawn: t-SNE of icarl herding after phase {phase}: t-SNE of" in text
    assert "all have the same direction" in text
    assert "Not drawn: confusion-icarl: no <b>colours</b>" in text
    warnings = [line for line in display.said if line.startswith("warning")]
    assert warnings == ["warning: the figure confusion-icarl could not be drawn: no <b>colours</b>"]
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"forgetting-icarl.png", "exemplars-icarl.png", "training-icarl.png"} <= drawn
    assert "confusion-icarl.png" not in drawn


def test_without_tsne_there_are_no_features_and_figures_have_the_formats_asked_for(runs, tmp_path, capsys):
    words = ["report", str(runs / "icarl-herding"), "--out", str(tmp_path), "--no-tsne", "--format", "svg", "pdf"]
    cli.main(words)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {name.rpartition(".")[2] for name in names} == {"svg", "pdf"}
    assert not any("tsne" in name or " " in name for name in names)
    assert {"accuracy.svg", "accuracy.pdf"} <= {path.name for path in tmp_path.iterdir()}
    assert "Features" not in Page(tmp_path / "report.html").text
    assert "accuracy.svg" in capsys.readouterr().out


def test_figures_of_one_name_get_files_of_their_own():
    plots = [Plot(name, "alt", "caption", figures.accuracy_curves) for name in ("a", "b", "a", "a-2", "a")]
    (section,) = page._unique_names([Section("title", plots)])
    assert [plot.name for plot in section.parts] == ["a", "b", "a-2", "a-2-2", "a-3"]
    assert sections.file_name("learned", "icarl mnemonics (T=5)/../é") == "learned-icarl-mnemonics-T=5"
