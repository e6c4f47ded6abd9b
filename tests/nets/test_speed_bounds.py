"""What must hold for speed and memory, read from compiled programs: no clock, whatever the machine's load."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemonics_jax import bilevel, nets
from mnemonics_jax.exemplars.herd import herd
from mnemonics_jax.runtime import kernels

SIZE, CLASSES, IMAGES = 32, 5, 128
NET = nets.Classifier(backbone=nets.ResNet(blocks_per_stage=1), head=nets.LinearHead(CLASSES))


def loss(variables, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(nets.apply(NET, variables, images).logits, labels).mean()


@functools.cache
def variables():
    return jax.jit(lambda key: nets.init(NET, key, (SIZE, SIZE, 3)))(jax.random.key(0))


@functools.cache
def meta_gradient(steps):
    """The compiled meta-gradient of 128 exemplars by 128 queries."""
    pixels, labels = jnp.ones((IMAGES, SIZE, SIZE, 3)), jnp.arange(IMAGES) % CLASSES
    value_and_grad = bilevel.meta_value_and_grad(
        lambda params, _, queries: loss(variables()._replace(params=params), queries, labels),
        lambda params, pixels, _: loss(variables()._replace(params=params), pixels, labels),
        optax.sgd(0.1),
        length=steps,
        config=bilevel.Unroll(remat="step"),
    )
    return jax.jit(value_and_grad).lower(pixels, variables().params, None, pixels).compile()


def training_steps():
    """Two compiled steps of gradient descent with batch statistics."""
    images, labels = jnp.ones((IMAGES, SIZE, SIZE, 3)), jnp.arange(IMAGES) % CLASSES

    def step(carry, _):
        def value(params):
            outputs, stats = nets.apply_train(NET, nets.Variables(params, carry.batch_stats), images)
            return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean(), stats

        grads, stats = jax.grad(value, has_aux=True)(carry.params)
        return nets.Variables(jax.tree.map(lambda p, g: p - 0.1 * g, carry.params, grads), stats), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=2)[0]).lower(variables()).compile()


def test_memory_of_the_meta_gradient_hardly_grows_with_the_steps():
    few, many = (meta_gradient(steps).memory_analysis().temp_size_in_bytes for steps in (5, 50))
    # More than a copy of the parameters for each step, or the analysis would not have counted them.
    assert many - few > 45 * sum(leaf.nbytes for leaf in jax.tree.leaves(variables().params)) / 2
    assert many <= 1.15 * few


ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the vendor's convolutions are right elsewhere")
PROGRAMS = pytest.mark.parametrize(
    "program", [training_steps, lambda: meta_gradient.__wrapped__(5)], ids=["training", "meta-gradient"]
)


@ON_CPU
@PROGRAMS
def test_cpu_programs_hold_no_slow_convolution(program, monkeypatch):
    """No dilation, no batch or feature groups, no mirrored window: what XLA's CPU backend has no fast program for."""
    monkeypatch.setattr(kernels, "supports", lambda x: False)
    lines = [line for line in program().as_text().splitlines() if " convolution(" in line]
    assert len(lines) > 10
    slow = r"lhs_dilate|rhs_dilate|rhs_reversal|batch_group_count|feature_group_count|dim_labels=(?!b01f_01io->b01f)"
    assert not [line for line in lines if re.search(slow, line)]


@ON_CPU
@PROGRAMS
def test_with_own_kernels_no_convolution_is_left_to_xla(program):
    if not kernels.supports(jnp.ones(1)):
        pytest.skip("no C++ compiler")
    text = program().as_text()
    assert " convolution(" not in text
    assert len(re.findall('custom_call_target="mnemonics_(?:correlate|kernel_gradient)"', text)) > 10


def test_the_slow_forms_are_what_automatic_differentiation_gives():
    """The pattern above finds them: without the custom derivatives it would not be empty."""

    def value(x, kernel):
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jnp.sin(y))

    text = jax.jit(jax.grad(value, (0, 1))).lower(jnp.ones((8, 8, 8, 4)), jnp.ones((3, 3, 4, 4))).compile().as_text()
    assert re.search("lhs_dilate", text)
    assert re.search("rhs_dilate", text)


def test_herding_of_many_classes_at_once_picks_as_a_loop_does():
    features = np.random.default_rng(0).normal(1, 1, (7, 30, 6)).astype(np.float32)
    picks = np.asarray(herd(features, np.ones((7, 30), bool), 12))
    for rows, ours in zip(features.astype(np.float64), picks, strict=True):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        chosen = []
        for k in range(1, 13):
            distance = np.linalg.norm(unit.mean(0) - (unit + unit[chosen].sum(0)) / k, axis=1)
            distance[chosen] = np.inf
            chosen.append(int(distance.argmin()))
        assert ours.tolist() == chosen
