"""Help, the version, and how fast they are there."""

import subprocess
import sys

import pytest

import mnemonics_jax
from mnemonics_jax import cli
from mnemonics_jax.config.presets import RECIPES


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--help",), ("run PRESET", "compare PRESET", "report RUN", "export RUN", "digits", "lucir")),
        (("--help",), ("sweep PRESET", "table", "--version")),
        (("sweep", "--help"), ("--sweep", "--list", "--herding", "--gpus-per-point", "PRESET")),
        (("run", "digits", "--help"), ("--config", "--recipe", "--method", "--verbose")),
        (("run", "--help"), ("digits", "images")),
        (
            ("run", "digits", "--help"),
            ("--exemplars.unroll-length", "--exemplars.outer-steps", "--train.epochs", "--out", "--save.every-steps"),
        ),
        (("run", "digits", "--method", "bic", "--help"), ("--method.holdout",)),
        (("compare", "digits", "--help"), ("--seeds", "--exemplars.unroll-length", "--phases", "--methods")),
        (
            ("compare", "digits", "--methods", "lwf", "bic", "lucir", "--exemplars", "herding", "mnemonics", "--help"),
            ("--method.distillation-weight", "--method.holdout", "--method.lambda-base", "--exemplars.anchor"),
        ),
        (("report", "--help"), ("RUN", "--out DIR", "report.html")),
        (("export", "--help"), ("RUN", "--to", "exemplars.npz")),
    ],
    ids=str,
)
def test_help_names_the_settings(capsys, words, named):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in named)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_help_says_in_one_line_what_each_recipe_does(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([command, "cifar100", "--help"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    lines = [line.split(maxsplit=1) for line in said.splitlines()]
    for name, recipe in RECIPES.items():
        assert [name, recipe.summary] in lines


def test_help_has_no_flag_for_the_preset(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "digits", "--help"])
    assert "--preset" not in capsys.readouterr().out


def test_help_that_is_not_read_to_its_end_is_no_error():
    child = subprocess.Popen(
        [sys.executable, "-m", "mnemonics_jax", "compare", "digits", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.close()  # before the program has begun to write
    _, said = child.communicate()
    assert (child.returncode, said) == (141, "")


HEAVY = ("jax", "flax", "optax", "orbax", "matplotlib", "tensorboardX", "sklearn", "pandas", "PIL.JpegImagePlugin")


NAMING = f"""
import sys
import mnemonics_jax
from mnemonics_jax import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
else:
    status = 0
print("ended", status, [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--help",), 0),
        (("--version",), 0),
        (("run", "digits", "--method", "bic", "--help"), 0),
        (("compare", "cifar100", "--help"), 0),
        (("sweep", "--help"), 0),
        (("report", "--help"), 0),
        (("rum",), 2),
        (("run", "digits", "--train.epoch", "3"), 2),
        (("run", "digits", "--train.epochs", "0"), 2),
        (("compare", "digits", "--train.epochs", "0"), 2),
        (("sweep", "digits", "--sweep", "train.epoch=3"), 2),
        (("export", "/no/such/folder"), 2),
        (("report", "/no/such/folder"), 2),
    ],
    ids=str,
)
def test_help_and_mistakes_wait_for_no_heavy_import(words, status):
    """A list of modules rather than a time, which depends on the machine."""
    child = subprocess.run([sys.executable, "-c", NAMING, *words], check=True, capture_output=True, text=True)
    assert child.stdout.splitlines()[-1] == f"ended {status} []"


def test_the_version_is_told(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"mnemonics_jax {mnemonics_jax.__version__}\n"


@pytest.mark.parametrize("module", ["mnemonics_jax", "mnemonics_jax.cli"])
def test_the_module_is_the_command(module):
    command = [sys.executable, "-m", module, "run", "digit"]
    child = subprocess.run(command, check=False, capture_output=True, text=True)
    assert child.returncode == 2
    assert child.stderr.startswith("mnemonics: unknown preset 'digit'")
    assert "Traceback" not in child.stderr
