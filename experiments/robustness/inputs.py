"""Attack by inputs: random flags, .npz files, image folders, config.json and summary.json."""

import json
import os
import random
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from damages import WAYS
from forked import Ended, Forked, command, outcome
from PIL import Image
from undisturbed import SETTINGS, words

VALUES = (
    *("-1", "0", "nan", "inf", "-inf", "1e400", "1e-400", "", "abc", "١", "9223372036854775808", "10000000000000"),
    *(
        "1" * 400,
        "1e13",
        "-0",
        "0.5",
        "none",
        "true",
        "None",
        "{}",
        "[]",
        "1,2",
        "1:2",
        "8 8",
        "\ud800",
        "é\u202e",
        "\n",
    ),
    *("$(reboot)", "../../x", "/dev/null", "s3://bucket/x", "%s%n", "0x10", "1_000", " 1", "--out", "a" * 5000),
)
"""Values of flags; those that are accepted leave a run tiny."""
SAVED = "summary.json"
_STREAM = ("--data.stream", "True")


def attacks(number: int, seed: int, out: Path, expected: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield the description, the outcome and what was said, of each of `number` attacks."""
    kinds = (flags, flags, places, arrays, pictures, config_file, summary_file)
    for index in range(number):
        rng = random.Random(f"input {seed} {index}")
        make = kinds[index % len(kinds)]
        work = out / "input"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        said, call, right = make(rng, work, out, expected)
        ended = Forked(call, {"HOME": str(work), "XDG_CACHE_HOME": str(out / "cache")}).wait()
        found = outcome(ended, right=right(ended))
        shutil.rmtree(work, ignore_errors=True)
        yield f"{index} {make.__name__}: {said[:300]}", found, f"status {ended.status}: {ended.said}"


Attack = tuple[str, Callable[[], Any], Callable[[Ended], bool | None]]


def _anything(ended: Ended) -> None:
    """Return nothing: what an accepted input computes has nothing to be compared with."""


def flags(rng: random.Random, work: Path, out: Path, expected: dict[str, Any]) -> Attack:
    """Return a run with one to three random flags after those of a tiny run."""
    from mnemonics_jax.config.parsing import settable
    from mnemonics_jax.config.presets import make_config

    variant = rng.choice(sorted(expected))
    method, _, kind = variant.partition("-")
    names = [*settable(make_config("digits", method, kind.split("-")[0])), *_OTHER]
    chosen = []
    for name in rng.sample(names, rng.randint(1, 3)):
        flag = "--" + name.replace("_", "-")
        value = rng.choice(VALUES)
        chosen += rng.choice([[flag, value], [flag, value], [f"{flag}={value}"], [flag], [flag.upper(), value]])
    return repr(chosen), command([*words(variant, work / "run"), *chosen]), _anything


_OTHER = ("save.every_steps", "save.min_seconds", "coordinator", "processes", "process_id", "vmap_seeds", "out", "typo")


def places(rng: random.Random, work: Path, out: Path, expected: dict[str, Any]) -> Attack:
    """Return a command on a strange folder, or with strange words."""
    (work / "file").write_text("years of work")
    os.mkfifo(work / "pipe")
    (work / "loop").symlink_to("loop")
    folder = rng.choice(
        [
            "",
            "file",
            "pipe",
            "loop",
            "a[1]",
            "b*",
            "c?",
            "new\nline",
            "\udcff",
            "d" * 300,
            "file/inside",
            "s3://b/x",
            "gs:x",
            "ok",
        ]
    )
    place = folder if folder in ("", "s3://b/x", "gs:x") else str(work / folder)
    variant = rng.choice(sorted(expected))
    choices = [[*words(variant, Path("x"))[:-1], place], ["report", place], ["export", place], ["report"]]
    choices += [["export", str(out / variant), "--to", place], ["".join(rng.choices(string.printable, k=9))]]
    chosen = rng.choice(choices)

    def call() -> None:
        os.chdir(work)
        command(chosen)()

    return repr(chosen), call, lambda ended: (out / variant / SAVED).exists()


def arrays(rng: random.Random, work: Path, out: Path, expected: dict[str, Any]) -> Attack:
    """Return a run on a damaged .npz file, or one with strange arrays."""
    path, draw = work / "data.npz", np.random.default_rng(rng.randrange(2**32))
    named: dict[str, Any] = {}
    for split, count in (("train", 12), ("test", 4)):
        named[f"{split}_images"] = draw.integers(0, 256, (4 * count, 8, 8, 1)).astype(np.uint8)
        named[f"{split}_labels"] = np.repeat(np.arange(4), count)
    way = rng.choice(["bytes", "bytes", "array"])
    key = rng.choice(list(named))
    if way == "array":
        strange = (
            *(np.zeros((0,)), np.float32("nan"), np.array(["a"] * 48), np.zeros((48, 8, 8, 1), np.int64)),
            *(named[key][:-1], named[key][..., None], np.array([None] * 48), np.full(48, -1), np.full(48, 2**62)),
            *(np.zeros((48, 1, 1, 1), np.uint8), np.zeros((48, 8, 8, 99), np.uint8), np.zeros(48, bool)),
        )
        named[key] = rng.choice(strange)
        if rng.random() < 0.3:
            named["class_names"] = rng.choice(
                [np.array(["a", "a", "\ud800", "x" * 999]), np.arange(4), np.array(["a"])]
            )
    rng.choice([np.savez, np.savez_compressed])(path, **named)
    if way == "bytes":
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 1, 10, 200])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        begin = rng.choice([0, 0, 0, rng.randrange(len(content))])
        path.write_bytes(content[begin : rng.choice([len(content), len(content), rng.randrange(len(content))])])
    return f"{way} {key}", command(_on("npz", path, work)), _anything


def _on(source: str, path: Path, work: Path, *more: str) -> list[str]:
    without = SETTINGS.index("--data.num-classes")
    tiny = [*SETTINGS[:without], *SETTINGS[without + 2 :]]
    chosen = ["--method", "icarl", "--exemplars", "random", "--exemplars.per-class", "2", *more]
    return ["run", source, "--data.path", str(path), *tiny, *chosen, "--out", str(work / "run")]


def pictures(rng: random.Random, work: Path, out: Path, expected: dict[str, Any]) -> Attack:
    """Return a run on an image folder in which some files are no images."""
    root = work / "images"
    for split in ("train", "test"):
        for name in "abcd":
            (root / split / name).mkdir(parents=True)
            for number in range(4 if split == "train" else 2):
                pixels = np.full((9, 9, 3), 20 * number + 40 * "abcd".index(name), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    done = []
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(sorted(path for path in root.rglob("*.png") if path.is_file()))
        way = rng.choice(WAYS)
        way(path, rng)
        done.append(f"{way.__name__} {path.relative_to(root)}")
    more = rng.choice([[], _STREAM, [*_STREAM, "--data.resized-crop", "--data.crop-padding", "0"]])
    return ", ".join(done), command(_on("images", root, work, "--data.image-size", "8", *more)), _anything


def config_file(rng: random.Random, work: Path, out: Path, expected: dict[str, Any]) -> Attack:
    """Return a command on a folder whose config.json has been changed."""
    variant = rng.choice(sorted(expected))
    target = shutil.copytree(out / rng.choice([variant, f"{variant}-half"]), work / "run")
    said = _spoil(target / "config.json", rng)
    then = rng.choice([words(variant, target), ["export", str(target)], ["report", str(target)]])
    return f"{then[0]} {said}", command(then), lambda ended: _same(target, expected[variant], then)


def summary_file(rng: random.Random, work: Path, out: Path, expected: dict[str, Any]) -> Attack:
    """Return a command on a folder whose summary.json has been changed, with its manifest or without."""
    variant = rng.choice(sorted(expected))
    target = shutil.copytree(out / variant, work / "run")
    said = _spoil(target / SAVED, rng)
    then = rng.choice([words(variant, target), ["report", str(target)]])
    # Without the manifest a report cannot know what a summary was; it must not fail.
    bare = then[0] == "report" and rng.random() < 0.5
    if bare:
        (target / "manifest.json").unlink()
    return f"{then[0]} {said}", command(then), lambda ended: bare or _same(target, expected[variant], then)


def _same(target: Path, expected: dict[str, Any], then: list[str]) -> bool | None:
    """Return whether a command that has succeeded has left the summary of the undisturbed run."""
    if then[0] != "run":
        return None
    try:
        found = json.loads((target / SAVED).read_text())
    except (OSError, ValueError):
        return False
    return all(found.get(name) == value for name, value in expected["summary"].items())


def _spoil(path: Path, rng: random.Random) -> str:
    """Change a JSON file: one of its values, or its bytes; return what was done."""
    if not path.exists() or rng.random() < 0.3:
        way = rng.choice(WAYS)
        if path.exists():
            way(path, rng)
        return way.__name__
    content = json.loads(path.read_text())
    holder = content
    while isinstance(holder, dict) and rng.random() < 0.6:
        inner = [value for value in holder.values() if isinstance(value, dict)]
        if not inner:
            break
        holder = rng.choice(inner)
    key = rng.choice(list(holder))
    strange = (
        None,
        True,
        -1,
        10**400,
        10**13,
        0.5,
        "x",
        "",
        [],
        {},
        [None],
        {"a": {}},
        [[[]]],
        float("nan"),
        "\ud800",
        1e308,
    )
    action = rng.choice(["value", "value", "value", "drop", "more", "deep"])
    if action == "value":
        holder[key] = rng.choice(strange)
    elif action == "drop":
        del holder[key]
    elif action == "more":
        holder["another"] = 1
    text = _dumps(content)
    path.write_text("[" * 100_000 if action == "deep" else text)
    return f"{action} {key} {str(holder.get(key))[:60]}"


def _dumps(content: Any) -> str:
    import sys

    sys.set_int_max_str_digits(0)
    return json.dumps(content)
