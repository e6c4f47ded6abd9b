"""The command line: `mnemonics run | compare | report | export`."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from mnemonics_jax.checkpoint import SaveConfig
from mnemonics_jax.compare import compare
from mnemonics_jax.compilations import use_persistent_cache
from mnemonics_jax.config import PRESETS, Config, make_config
from mnemonics_jax.console import Display, stdout
from mnemonics_jax.distributed import Cluster, connect, is_first
from mnemonics_jax.errors import UserError
from mnemonics_jax.exemplars import EXEMPLARS, exemplar_class
from mnemonics_jax.export import export
from mnemonics_jax.journal import cannot_write
from mnemonics_jax.methods import METHODS, method_class
from mnemonics_jax.plan import Job, execute
from mnemonics_jax.program import ending
from mnemonics_jax.records import find_records
from mnemonics_jax.report import comparison_table, run_table, write_report
from mnemonics_jax.report_page import write_page
from mnemonics_jax.run import run

T = TypeVar("T")
_PRESET_LINES = "\n".join(f"  {name:16} {preset.summary}" for name, preset in PRESETS.items())
_USAGE = f"""usage: mnemonics COMMAND ...

class-incremental learning with learned exemplars

commands:
  run PRESET      one run; goes on where it stopped if its --out exists
  compare PRESET  methods × exemplar kinds × class orders, as a table and a plot
  report RUN...   tables, figures and a page of finished runs side by side, from their files alone
  export RUN      a run's exemplars as pictures and .npz, and its model, for use elsewhere

presets:
{_PRESET_LINES}

`mnemonics run PRESET --help` explains every setting. Methods: {", ".join(METHODS)}.
Exemplar kinds: {", ".join(EXEMPLARS)}."""


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the run: settings, metrics, checkpoints, summary. Default: a name made of the settings, in runs/."""
    vmap_seeds: int | None = None
    """Run so many class orders, those of the seeds --seed, --seed + 1, ..., at once as one vmapped program on one
    device; the run of each seed gets its folder in --out, which it can go on from alone as well."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Cluster)
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


@dataclasses.dataclass(frozen=True)
class _Compare:
    config: Annotated[Config, tyro.conf.arg(name="")]
    seeds: int = 5
    """How many class orders every arm runs on, with the seeds 0 .. seeds-1."""
    vmap_seeds: bool = False
    """Run the class orders of an arm at once, as one vmapped program on one device."""
    out: Path = Path("runs/compare")
    """Folder of the comparison; each run gets a folder in it."""
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the `mnemonics` command. Exit status: 0, 2 for a user's mistake, 3 for numbers gone wrong, in
    one run or in some of several.

    A run that SIGTERM ends after saving exits with 75, one that Ctrl-C ends with 130.
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
    with ending("mnemonics"):
        if words[0] not in commands:
            raise UserError(f"unknown command {words[0]!r}: choose from {', '.join(commands)}")
        commands[words[0]](words[1:])


def _preset(words: list[str], command: str) -> tuple[str, list[str]]:
    """The preset's name and the words after it; prints help when that is all that is asked."""
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: mnemonics {command} PRESET [settings]\n\npresets:\n{_PRESET_LINES}\n")
        print(f"`mnemonics {command} PRESET --help` explains every setting.")
        sys.exit(0 if words else 2)
    return words[0], words[1:]


def _pick(words: list[str], **flags: str | None) -> tuple[argparse.Namespace, list[str]]:
    """Takes the flags that decide which settings exist; the rest is for tyro, which knows the settings themselves."""
    parser = argparse.ArgumentParser(prog="mnemonics", add_help=False, allow_abbrev=False)
    for name, nargs in flags.items():
        parser.add_argument(f"--{name}", nargs=nargs)
    return parser.parse_known_args(words)


def _run(words: list[str]) -> None:
    preset, words = _preset(words, "run")
    chosen, words = _pick(words, method=None, exemplars=None)
    config = make_config(preset, chosen.method, chosen.exemplars or "mnemonics")
    what = f"{config.method.name} with {config.exemplars.name} exemplars"
    parsed = tyro.cli(
        _Run,
        prog=f"mnemonics run {preset}",
        description=f"One run of {what} on the preset {preset}: {PRESETS[preset].summary}.\n\n"
        f"--method {{{','.join(METHODS)}}} and --exemplars {{{','.join(EXEMPLARS)}}} choose the method and the "
        "exemplar kind, and which settings follow.",
        default=_Run(config),
        args=words,
    )
    config = parsed.config
    name = f"{preset}-{config.method.name}-{config.exemplars.name}-seed{config.seed}"
    use_persistent_cache()
    if parsed.vmap_seeds is not None:
        _run_seeds(parsed, parsed.out or Path("runs") / f"{name}-{config.seed + parsed.vmap_seeds - 1}")
        return
    connect(parsed.cluster)
    with Display(quiet=not is_first()) as display:
        summary = run(config, parsed.out or Path("runs") / name, display, parsed.save)
    if is_first():
        stdout().print(run_table(summary))


def _run_seeds(asked: _Run, out: Path) -> None:
    if asked.vmap_seeds < 1:
        raise UserError(f"--vmap-seeds {asked.vmap_seeds}: at least one class order is needed")
    if asked.cluster.distributed:
        raise UserError("--vmap-seeds needs a single device: leave out --distributed, or run the seeds one by one")
    first = asked.config.seed
    jobs = [
        Job(f"seed{seed}", dataclasses.replace(asked.config, seed=seed))
        for seed in range(first, first + asked.vmap_seeds)
    ]
    with Display() as display:
        summaries = execute(jobs, out, display, asked.save, vmap_seeds=True).complete(out)
    stdout().print(comparison_table(write_report(summaries, out)))
    print(f"plot: {out / 'accuracy.png'}")


def _compare(words: list[str]) -> None:
    preset, words = _preset(words, "compare")
    chosen, words = _pick(words, methods="+", exemplars="+")
    methods = chosen.methods or ["lwf", "icarl", "bic", "lucir"]
    kinds = chosen.exemplars or list(EXEMPLARS)
    for name in methods:
        method_class(name)
    for name in kinds:
        exemplar_class(name)
    # The flags are those of the first method and of the kind with the most settings; each arm takes what it has.
    richest = max(kinds, key=lambda kind: len(dataclasses.fields(EXEMPLARS[kind])))
    first = make_config(preset, methods[0], richest)
    parsed = tyro.cli(
        _Compare,
        prog=f"mnemonics compare {preset}",
        description=f"Methods × exemplar kinds × class orders on the preset {preset}: {PRESETS[preset].summary}.\n\n"
        f"--methods {{{','.join(METHODS)}}} ... and --exemplars {{{','.join(EXEMPLARS)}}} ... choose the arms. Any "
        "other setting that is changed is so for all arms that have it.",
        default=_Compare(first),
        args=words,
    )

    def make(method: str, kind: str, seed: int) -> Config:
        own = make_config(preset, method, kind)
        return dataclasses.replace(
            parsed.config,
            seed=seed,
            method=_changed(parsed.config.method, first.method, own.method),
            exemplars=_changed(parsed.config.exemplars, first.exemplars, own.exemplars),
        )

    use_persistent_cache()
    with Display() as display:
        summaries = compare(
            make, methods, kinds, parsed.seeds, parsed.out, display, parsed.save, vmap_seeds=parsed.vmap_seeds
        )
    stdout().print(comparison_table(write_report(summaries, parsed.out)))
    print(f"plot: {parsed.out / 'accuracy.png'}")


def _changed(given: object, default: object, own: T) -> T:
    """`own` with the values of `given` that are not those of `default`, for the fields that it has."""
    names = {f.name for f in dataclasses.fields(own)} & {f.name for f in dataclasses.fields(given)}
    changed = [name for name in names if getattr(given, name) != getattr(default, name)]
    return dataclasses.replace(own, **{name: getattr(given, name) for name in changed})


def _report(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="mnemonics report",
        description="Puts finished runs side by side, from their files alone: comparison.json, accuracy.png, figures/ "
        "and report.html, a page that needs nothing else.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of a comparison")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; RUN when not given")
    asked = parser.parse_args(words)
    records = find_records(asked.runs)
    if asked.out is None and len(asked.runs) > 1:
        raise UserError(f"{len(asked.runs)} folders: say with --out where their report goes")
    out = asked.out or asked.runs[0]
    use_persistent_cache()
    with cannot_write(out):
        out.mkdir(parents=True, exist_ok=True)
        with Display() as display:
            rows = write_page(records, out, display)
    stdout().print(run_table(records[0].summary) if len(records) == 1 else comparison_table(rows))
    print(f"plot: {out / 'accuracy.png'}\nreport: {out / 'report.html'}")


def _export(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="mnemonics export",
        description="Writes the exemplars and the model of RUN, as they are after its last finished phase: images/ (a "
        "data set for --data.source folder), exemplars.npz (one for --data.source npz) and model/.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--to", type=Path, help="folder to write, which must not exist; RUN/export when not given")
    asked = parser.parse_args(words)
    to = asked.to or asked.run / "export"
    with Display() as display:
        export(asked.run, to, display.warn)
    print(f"written: {', '.join(str(path) for path in sorted(to.iterdir()))}")
