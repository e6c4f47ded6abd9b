"""Computing in bfloat16: what is narrow, what is not, and how near it comes to float32."""

import dataclasses
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import nets
from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.exemplars.inner import InnerProblem, InnerProgram, Models
from mnemonics_jax.exemplars.inner_batches import draw_batches
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.outer import Meta, OuterBatches, OuterProblem, meta_gradient
from mnemonics_jax.methods import LUCIR, Classes, LogitCorrection
from mnemonics_jax.phase.training import Context, TrainBatches, TrainProgram, TrainState, train_chunk
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.random_streams import Use, random_stream, root_key

CLASSES, SIDE = 4, 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, SIDE, SIDE, 1), np.uint8)
LABELS = np.arange(16, dtype=np.int32) % CLASSES


def build(precision, head="linear"):
    return nets.build(nets.NetConfig(widths=(8, 16), precision=precision), CLASSES, head)


@cache
def variables(head="linear"):
    return jax.jit(partial(nets.init, build("float32", head), image_shape=(SIDE, SIDE, 1)))(jax.random.key(0))


def test_the_choice_follows_the_backend(monkeypatch):
    assert build("auto").dtype is build("float32").dtype is None
    for backend in ("gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert build("auto").dtype == "bfloat16"
        assert build("float32").dtype is None


def test_float64_has_to_be_switched_on():
    with pytest.raises(UserError, match="JAX_ENABLE_X64"):
        build("float64")


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_the_backbone_is_narrow_and_nothing_after_it(head):
    x = jnp.asarray(IMAGES[0] / 255, jnp.float32)
    narrow, wide = (jax.jit(partial(nets.apply, build(p, head)))(variables(head), x) for p in ("bfloat16", "float32"))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(narrow.features, wide.features, atol=0.02 * float(jnp.abs(wide.features).max()))
    assert not np.array_equal(narrow.features, wide.features)
    text = str(jax.make_jaxpr(partial(nets.apply, build("bfloat16", head)))(variables(head), x))
    kinds = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated", text)
    assert kinds
    assert set(kinds) == {"bf16"}


def test_parameters_statistics_and_momentum_stay_float32_in_training():
    program = TrainProgram(build("bfloat16", "cosine"), LUCIR(), Augmentation(1, True, (0.5,), (0.25,)), 0.9, 1e-4)
    state = TrainState(variables("cosine"), program.optimizer().init(variables("cosine").params))
    seen = np.arange(CLASSES) < CLASSES
    bias = LogitCorrection(np.ones(CLASSES, np.float32), np.zeros(CLASSES, np.float32))
    context = Context(variables("cosine"), Classes(old=~seen, new=seen), bias)
    rates, steps = np.full(3, 0.05, np.float32), np.arange(3, dtype=np.int32)
    batches = TrainBatches(IMAGES, np.stack([LABELS] * 3), rates, steps, np.ones(3, bool))
    after, (losses, _) = train_chunk(program, state, context, batches, np.array([1, 2], np.uint32))
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}
    wide = dataclasses.replace(program, net=build("float32", "cosine"))
    _, (expected, _) = train_chunk(wide, state, context, batches, np.array([1, 2], np.uint32))
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    # An update too small for bfloat16 to hold beside its parameter is not lost.
    moved = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (after.variables, state.variables)), strict=True)
    ]
    assert all(change > 0 for change in moved)


def pixel_gradient(precision):
    settings = Mnemonics(per_class=4, unroll_length=3, inner_augment=False, outer_augment=False)
    program = InnerProgram(build(precision), settings, Augmentation(0, False, (0.5,), (0.25,)))
    usable, seen = np.ones((CLASSES, 4), bool), np.ones(CLASSES, bool)
    models = Models(variables(), variables())
    pixels = (IMAGES[0] / 255).astype(np.float32)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 4)
    problem = OuterProblem(InnerProblem(models, labels, seen), usable.reshape(-1), pixels * 0, pixels * 0 + 1)
    inner = draw_batches(settings, usable, random_stream(root_key(0), 0, Use.INNER_BATCHES))
    batch = OuterBatches(IMAGES[1], LABELS, inner, np.float32(0.1), np.int32(0), np.bool_(True))
    meta = Meta(pixels, np.full(3, np.log(0.1), np.float32))
    gradient = jax.jit(lambda value: meta_gradient(program, problem, value, batch, jax.random.key(0))[1])
    problem, batch = jax.tree.map(jnp.asarray, (problem, batch))
    return gradient(meta).pixels


def test_the_meta_gradient_is_float32_and_points_the_same_way():
    narrow, wide = pixel_gradient("bfloat16"), pixel_gradient("float32")
    assert narrow.dtype == jnp.float32
    cosine = jnp.vdot(narrow, wide) / (jnp.linalg.norm(narrow) * jnp.linalg.norm(wide))
    assert float(cosine) > 0.99
    assert float(jnp.linalg.norm(narrow) / jnp.linalg.norm(wide)) == pytest.approx(1, abs=0.03)
