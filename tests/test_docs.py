"""README and pages: their commands parse, their Python runs, their links lead somewhere."""

import re
import shlex

import pytest
from helpers import EXPERIMENTS, ROOT

from mnemonics_jax import cli
from mnemonics_jax.config.presets import PRESETS
from mnemonics_jax.data import SOURCES
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.methods import METHODS

PAGES = [ROOT / "README.md", *sorted((EXPERIMENTS / "docs").glob("*.md"))]
RESULTS = sorted(EXPERIMENTS.glob("RESULTS*.md"))
VALUES = ("METHOD", "SEED", "STEPS", "E", "r")
"""Words of the pages of results that stand for a value."""


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands():
    """Every `mnemonics` command in a block or between backquotes: its page and its words."""
    for page in PAGES:
        inline = re.findall(r"`(mnemonics (?:run|compare|sweep|table|report|export) [^`]*)`", page.read_text())
        lines = [line.split("#")[0] for block in blocks(page, "bash") for line in block.splitlines()]
        for text in (*inline, *(part for line in lines for part in line.split("&&"))):
            words = shlex.split(text.replace("…", "").replace("...", ""))
            # In a table, capitals stand for a value.
            if words[:1] == ["mnemonics"] and not {"PRESET", "RUN", "[--out"} & {*words}:
                yield pytest.param(words[1:], id=f"{page.name}: {' '.join(words)}")


def commands_of_results():
    """Every indented `mnemonics` command of the pages of results, with the lines that it goes on in."""
    for page in RESULTS:
        for text in re.findall(r"^    (mnemonics (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE):
            words = shlex.split(text.replace("\\\n", ""))
            if not {*words} & {*VALUES}:
                yield pytest.param(words[1:], id=f"{page.name}: {' '.join(words)}")


class Parsed(Exception):
    """The words of a command are good: it would start now."""


@pytest.mark.parametrize("words", [*commands(), *commands_of_results()])
def test_every_command_parses(words, monkeypatch, tmp_path, capsys):
    def start(*_, **__):
        raise Parsed

    for name in (
        "runs.runner.run_in_folder",
        "sweeps.comparison.compare",
        "sweeps.jobs.run_jobs",
        "runs.export.export",
    ):
        monkeypatch.setattr(f"mnemonics_jax.{name}", start)
    monkeypatch.setattr("mnemonics_jax.sweeps.jobs.job_lines", start)
    monkeypatch.setattr("mnemonics_jax.sweeps.ray_jobs.run_jobs_on_ray", start)
    monkeypatch.setattr("mnemonics_jax.cli.report.summary_files", start)
    monkeypatch.setattr("mnemonics_jax.runtime.compile_cache.use_persistent_cache", lambda: None)
    monkeypatch.setattr("mnemonics_jax.cli.run.connect", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("preset: digits\nmethod: lucir\ntrain.epochs: 40\n")
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.json").write_text('{"preset": "digits"}')
    with pytest.raises(Parsed):
        cli.main(words)


def test_the_library_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in blocks(EXPERIMENTS / "docs" / "library.md", "python"):
        exec(block.replace('"train.later_epochs": "10"', '"train.later_epochs": "1", "train.epochs": "3"'), space)
    assert int(space["state"].phase) == 6
    assert len(re.findall(r"phase \d+: \d+\.\d+ %", capsys.readouterr().out)) == 6


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, *RESULTS, EXPERIMENTS / "FIDELITY.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    assert targets
    for name, part in targets:
        target = page.parent / name if name else page
        assert target.exists(), name
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if part else []
        assert not part or part in map(anchor, headings), f"{name}#{part}"


def test_the_readme_leads_to_every_page():
    text = PAGES[0].read_text()
    assert [page.name for page in PAGES[1:] if f"experiments/docs/{page.name}" not in text] == []
    assert len(text.split()) < 1000


@pytest.mark.parametrize(("page", "names"), [("commands", PRESETS), ("commands", METHODS), ("data", SOURCES)], ids=str)
def test_every_name_is_on_its_page(page, names):
    text = (EXPERIMENTS / "docs" / f"{page}.md").read_text()
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_exemplar_kind_is_on_its_page():
    text = (EXPERIMENTS / "docs" / "commands.md").read_text()
    assert [name for name in EXEMPLARS if f"`{name}`" not in text] == []


def test_the_settings_file_of_the_page_is_one(tmp_path, monkeypatch):
    (block,) = blocks(EXPERIMENTS / "docs" / "commands.md", "yaml")
    (tmp_path / "settings.yaml").write_text(block)
    found = []
    monkeypatch.setattr("mnemonics_jax.runs.runner.run_in_folder", lambda config, *_: found.append(config) or 1 / 0)
    monkeypatch.setattr("mnemonics_jax.runtime.compile_cache.use_persistent_cache", lambda: None)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "--config", str(tmp_path / "settings.yaml"), "--seed", "1"])
    (config,) = found
    assert (config.method.name, config.exemplars.unroll_length, config.train.epochs, config.seed) == (
        "lucir",
        20,
        40,
        1,
    )
