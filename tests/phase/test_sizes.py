"""Sizes that no memory holds are refused before anything is trained, with the flag, by calculation."""

import time

import pytest

from mnemonics_jax.config.presets import PRESETS, make_config
from mnemonics_jax.phase.sizes import check_sizes
from mnemonics_jax.runtime.errors import UserError

ABSURD = 10**13


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("train", "batch_size"),
        ("train", "chunk_steps"),
        ("train", "epochs"),
        ("train", "later_epochs"),
        ("train", "balanced_steps"),
        ("exemplars", "unroll_length"),
        ("exemplars", "outer_batch"),
        ("exemplars", "outer_chunk"),
        ("exemplars", "outer_steps"),
        ("exemplars", "adjust_steps"),
        ("exemplars", "inner_batch"),
        ("net", "widths"),
    ],
)
def test_an_absurd_size_is_refused_at_once(tiny, part, name):
    value = (8, ABSURD) if name == "widths" else ABSURD
    began = time.monotonic()
    with pytest.raises(UserError, match=f"--{part}.{name.replace('_', '-')} .*{ABSURD}.* needs at least .* GiB"):
        tiny.setup("lwf", "mnemonics", **{part: {name: value}})
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_any_machine(tiny, monkeypatch, preset):
    monkeypatch.setattr("mnemonics_jax.phase.sizes.device_bytes", lambda: 2**30)
    for kind in ("herding", "mnemonics"):
        check_sizes(make_config(preset, "icarl", kind), tiny.setup().stream)
