"""The command line: `mnemonics run | compare | report | export`."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.presets import PRESETS, make_config, recipe_lines
from mnemonics_jax.exemplars import EXEMPLARS, exemplar_class
from mnemonics_jax.methods import METHODS, method_class
from mnemonics_jax.reports.finished_runs import find_finished_runs
from mnemonics_jax.reports.page import write_page
from mnemonics_jax.reports.tables import comparison_tables, run_table, write_report
from mnemonics_jax.runs.export import export
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.compile_cache import use_persistent_cache
from mnemonics_jax.runtime.distributed import Cluster, connect, is_primary
from mnemonics_jax.runtime.errors import UserError, exit_status
from mnemonics_jax.runtime.files import cannot_write
from mnemonics_jax.runtime.progress import Display, stdout
from mnemonics_jax.runtime.settings import field_kinds
from mnemonics_jax.sweeps.comparison import compare
from mnemonics_jax.sweeps.jobs import Job, run_jobs

T = TypeVar("T")
_PRESET_LINES = "\n".join(f"  {name:16} {preset.summary}" for name, preset in PRESETS.items())
_USAGE = f"""usage: mnemonics COMMAND ...

class-incremental learning with learned exemplars

commands:
  run PRESET      one run; resumes from its last checkpoint if its --out exists
  compare PRESET  methods × exemplar kinds × class orders, as a table and a plot
  report RUN...   tables, figures and a page of finished runs side by side, from their files alone
  export RUN      a run's exemplars as images and .npz, and its model, for other programs

presets:
{_PRESET_LINES}

`mnemonics run PRESET --help` explains every setting. Methods: {", ".join(METHODS)}.
Exemplar kinds: {", ".join(EXEMPLARS)}."""


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the run: settings, metrics, checkpoints, summary. Default: runs/NAME, where NAME names the settings."""
    vmap_seeds: int | None = None
    """Number of class orders, with the seeds --seed, --seed + 1, ..., to run at once as one vmapped program on one
    device. The run of each seed has its own folder in --out, where it can also be resumed alone."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Cluster)
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


@dataclasses.dataclass(frozen=True)
class _Compare:
    config: Annotated[Config, tyro.conf.arg(name="")]
    seeds: int = 5
    """Number of class orders for each arm, with the seeds 0 .. seeds-1."""
    vmap_seeds: bool = False
    """Run the class orders of an arm at once, as one vmapped program on one device."""
    out: Path = Path("runs/compare")
    """Folder of the comparison; each run has its own folder in it."""
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


def main(args: Sequence[str] | None = None) -> None:
    """Run the `mnemonics` command with the words `args`, by default those of the command line.

    The exit status is 0 for success, 2 for a mistake by the user, 3 for numbers that are not finite or failed runs, 75
    for a run that was saved and ended on SIGTERM, and 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    commands: dict[str, Callable[[list[str]], None]] = {
        "run": _run,
        "compare": _compare,
        "report": _report,
        "export": _export,
    }
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        sys.exit(0 if words else 2)
    with exit_status("mnemonics"):
        if words[0] not in commands:
            raise UserError(f"unknown command {words[0]!r}: choose from {', '.join(commands)}")
        commands[words[0]](words[1:])


def _preset(words: list[str], command: str) -> tuple[str, list[str]]:
    """Return the preset's name and the words after it, or print help and exit when no preset is given."""
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: mnemonics {command} PRESET [settings]\n\npresets:\n{_PRESET_LINES}\n")
        print(f"`mnemonics {command} PRESET --help` explains every setting.")
        sys.exit(0 if words else 2)
    return words[0], words[1:]


def _pick(words: list[str], **flags: str | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the flags that decide which settings exist, and return the other words for tyro to parse."""
    parser = argparse.ArgumentParser(prog="mnemonics", add_help=False, allow_abbrev=False)
    for name, nargs in flags.items():
        parser.add_argument(f"--{name}", nargs=nargs)
    return parser.parse_known_args(words)


def _run(words: list[str]) -> None:
    preset, words = _preset(words, "run")
    chosen, words = _pick(words, method=None, exemplars=None, recipe=None)
    config = make_config(preset, chosen.method, chosen.exemplars or "mnemonics", chosen.recipe or "default")
    what = f"{config.method.name} with {config.exemplars.name} exemplars"
    parsed = tyro.cli(
        _Run,
        prog=f"mnemonics run {preset}",
        description=f"One run of {what} on the preset {preset}: {PRESETS[preset].summary}.\n\n"
        f"--method {{{','.join(METHODS)}}} and --exemplars {{{','.join(EXEMPLARS)}}} choose the method and the "
        f"exemplar kind, and which settings follow. --recipe chooses what the settings start from:\n\n{recipe_lines()}",
        default=_Run(config),
        args=words,
    )
    config = parsed.config
    recipe = "" if config.recipe == "default" else f"-{config.recipe}"
    name = f"{preset}-{config.method.name}-{config.exemplars.name}{recipe}-seed{config.seed}"
    use_persistent_cache()
    if parsed.vmap_seeds is not None:
        _run_seeds(parsed, parsed.out or Path("runs") / f"{name}-{config.seed + parsed.vmap_seeds - 1}")
        return
    connect(parsed.cluster)
    with Display(quiet=not is_primary()) as display:
        summary = run_in_folder(config, parsed.out or Path("runs") / name, display, parsed.save)
    if is_primary():
        stdout().print(run_table(summary))


def _run_seeds(asked: _Run, out: Path) -> None:
    if asked.vmap_seeds < 1:
        raise UserError(f"--vmap-seeds {asked.vmap_seeds}: give at least 1")
    if asked.cluster.distributed:
        raise UserError("--vmap-seeds needs a single device: leave out --distributed, or run the seeds one by one")
    first = asked.config.seed
    jobs = [
        Job(f"seed{seed}", dataclasses.replace(asked.config, seed=seed))
        for seed in range(first, first + asked.vmap_seeds)
    ]
    with Display() as display:
        summaries = run_jobs(jobs, out, display, asked.save, vmap_seeds=True).complete(out)
    stdout().print(comparison_tables(write_report(summaries, out)))
    print(f"plot: {out / 'accuracy.png'}")


def _compare(words: list[str]) -> None:
    preset, words = _preset(words, "compare")
    chosen, words = _pick(words, methods="+", exemplars="+", recipe=None)
    methods = chosen.methods or ["lwf", "icarl", "bic", "lucir"]
    kinds = chosen.exemplars or list(EXEMPLARS)
    for name in methods:
        method_class(name)
    for name in kinds:
        exemplar_class(name)
    recipe = chosen.recipe or "default"
    arms = {(method, kind): make_config(preset, method, kind, recipe) for method in methods for kind in kinds}
    # The words are parsed first with the flags of all arms, for help and for unknown words, and then once for each arm,
    # which takes the flags that it has; a flag that is not given keeps the value of the arm.
    parsed = tyro.cli(
        _Compare,
        prog=f"mnemonics compare {preset}",
        description=f"Methods × exemplar kinds × class orders on the preset {preset}: {PRESETS[preset].summary}.\n\n"
        f"--methods {{{','.join(METHODS)}}} ... and --exemplars {{{','.join(EXEMPLARS)}}} ... choose the arms. Any "
        "other setting applies to all arms that have it. --recipe chooses what the settings of all arms start "
        f"from:\n\n{recipe_lines()}",
        default=_Compare(_with_all_settings(list(arms.values()))),
        args=words,
    )
    arms = {
        arm: tyro.cli(_Compare, default=_Compare(config), args=words, return_unknown_args=True)[0].config
        for arm, config in arms.items()
    }

    use_persistent_cache()
    with Display() as display:
        summaries = compare(arms, parsed.seeds, parsed.out, display, parsed.save, vmap_seeds=parsed.vmap_seeds)
    stdout().print(comparison_tables(write_report(summaries, parsed.out)))
    print(f"plot: {parsed.out / 'accuracy.png'}")


def _with_all_settings(configs: Sequence[Config]) -> Config:
    """Return a configuration with the settings of all methods and kinds, only for flags and their help."""
    return dataclasses.replace(
        configs[0],
        method=_merged(
            [config.method for config in configs], "Settings of the methods; each method takes those it has."
        ),
        exemplars=_merged(
            [config.exemplars for config in configs], "Settings of the exemplar kinds; each kind takes those it has."
        ),
    )


def _merged(parts: Sequence[T], doc: str) -> T:
    """Return one dataclass with the fields of all `parts`; where several have a field, the first one's value counts."""
    fields: dict[str, tuple[str, Any, Any]] = {}
    for part in parts:
        for name, kind in field_kinds(type(part)).items():
            fields.setdefault(name, (name, kind, dataclasses.field(default=getattr(part, name))))
    # tyro looks up the help of a field in the class that declares it, so the bases are these classes.
    classes = {type(part): None for part in parts}
    bases = tuple(cls for cls in classes if not any(issubclass(other, cls) for other in classes if other is not cls))
    merged = dataclasses.make_dataclass("All", fields.values(), bases=bases, frozen=True, namespace={"__doc__": doc})
    return merged()


def _report(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="mnemonics report",
        description="Compares finished runs from their files alone: comparison.json, accuracy.png, figures/ and "
        "report.html, a self-contained page.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of a comparison")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: RUN)")
    asked = parser.parse_args(words)
    runs = find_finished_runs(asked.runs)
    if asked.out is None and len(asked.runs) > 1:
        raise UserError(f"{len(asked.runs)} folders: give the folder of their report with --out")
    out = asked.out or asked.runs[0]
    use_persistent_cache()
    with cannot_write(out):
        out.mkdir(parents=True, exist_ok=True)
        with Display() as display:
            rows = write_page(runs, out, display)
    stdout().print(run_table(runs[0].summary) if len(runs) == 1 else comparison_tables(rows))
    print(f"plot: {out / 'accuracy.png'}\nreport: {out / 'report.html'}")


def _export(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="mnemonics export",
        description="Writes the exemplars and the model of RUN after its last finished phase: images/ (a data set for "
        "--data.source folder), exemplars.npz (a data set for --data.source npz) and model/.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--to", type=Path, help="new folder to write; it must not exist (default: RUN/export)")
    asked = parser.parse_args(words)
    to = asked.to or asked.run / "export"
    with Display() as display:
        export(asked.run, to, display.warn)
    print(f"written: {', '.join(str(path) for path in sorted(to.iterdir()))}")
