from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import nets
from mnemonics_jax.nets.layers import BatchNorm, Conv, normalise
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import check_ranges

CONVNET = nets.NetConfig(widths=(4, 6, 8))
RESNET = nets.NetConfig(name="resnet32")


def images(n, size, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, size, size, 3)), jnp.float32)


@cache
def convnet(head="linear"):
    net = nets.build(CONVNET, 5, head)
    return net, init(net, jax.random.key(0))


@partial(jax.jit, static_argnums=0)
def init(net, key):
    return nets.init(net, key, (8, 8, 3))


apply = jax.jit(nets.apply, static_argnums=0)
apply_train = jax.jit(nets.apply_train, static_argnums=0)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def shapes(net, size):
    variables = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (size, size, 3)))
    return variables, jax.eval_shape(partial(nets.apply, net), variables, jnp.zeros((2, size, size, 3)))


@pytest.mark.parametrize("size", [8, 32, 64])
def test_convnet_takes_any_image_size(size):
    variables, outputs = shapes(nets.build(nets.NetConfig(), 7, "linear"), size)
    assert outputs.features.shape == (2, 128)
    assert outputs.logits.shape == (2, 7)
    assert set(variables.params["backbone"]) == {"stage_0", "stage_1", "stage_2"}


@pytest.mark.parametrize(("head", "negative"), [("linear", False), ("cosine", True)])
def test_features_are_negative_only_under_a_cosine_head(head, negative):
    net, variables = convnet(head)
    outputs, _ = apply_train(net, variables, images(16, 8))
    assert bool((outputs.features < 0).any()) is negative


def test_batch_norm_against_numpy():
    x = np.random.default_rng(1).normal(2, 3, (6, 4, 5, 2)).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(x), train=False)
    y, updated = norm.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-4)


def test_derivatives_of_batch_statistics_are_those_of_the_formula():
    """The gradient that is written out, and the gradient of that gradient, against automatic differentiation."""

    def formula(x, scale, bias):
        mean = x.mean((0, 1, 2))
        return scale * (x - mean) / jnp.sqrt(((x - mean) ** 2).mean((0, 1, 2)) + 1e-5) + bias

    def twice(function, x, scale, bias, weights):
        def first(*args):
            return jax.grad(lambda *a: jnp.sum(weights * jnp.sin(function(*a))), (0, 1, 2))(*args)

        second = jax.grad(lambda *a: sum(jnp.sum(jnp.cos(g)) for g in first(*a)), (0, 1, 2))
        return first(x, scale, bias), second(x, scale, bias)

    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        args = [jnp.asarray(rng.normal(size=shape)) for shape in ((3, 2, 4, 5), 5, 5, (3, 2, 4, 5))]
        ours = twice(lambda *a: normalise(*a)[0], *args)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(twice(formula, *args)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_batch_statistics_of_bfloat16_are_summed_in_float32():
    x = jnp.asarray(np.random.default_rng(3).normal(3, 1, (64, 8, 8, 2)), jnp.bfloat16)
    y, mean, var = normalise(x, jnp.ones(2), jnp.zeros(2))
    wide = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(var, wide.var((0, 1, 2)), rtol=1e-3)


def test_conv_starts_he_normal_in_fan_out():
    kernel = Conv(64, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))["params"]["kernel"]
    assert kernel.shape == (3, 3, 32, 64)
    assert float(kernel.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_heads_start_uniform(head):
    module = nets.build(nets.NetConfig(), 50, head).head
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 128)))["params"]
    bound = 128**-0.5
    assert params["kernel"].shape == (128, 50)
    assert 0.99 * bound < float(jnp.abs(params["kernel"]).max()) <= bound
    assert float(params["kernel"].std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    if head == "linear":
        assert np.array_equal(params["bias"], np.zeros(50))
    else:
        assert params["sigma"].shape == ()
        assert float(params["sigma"]) == 1


def test_masked_logits_neither_count_nor_learn():
    logits = jnp.asarray([[1.0, 2.0, 3.0, 4.0]])
    seen = jnp.asarray([True, False, True, False])
    probabilities = jax.nn.softmax(nets.mask_logits(logits, seen))
    np.testing.assert_allclose(probabilities[0, [0, 2]], jax.nn.softmax(jnp.asarray([1.0, 3.0])), rtol=1e-6)
    assert np.array_equal(probabilities[0, [1, 3]], [0, 0])
    gradient = jax.grad(lambda z: -jax.nn.log_softmax(nets.mask_logits(z, seen))[0, 0])(logits)
    assert np.array_equal(gradient[0, [1, 3]], [0, 0])
    assert float(gradient[0, 0]) < 0
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        masked = nets.mask_logits(logits.astype(dtype), seen)
        assert masked.dtype == dtype
        assert bool(jnp.isfinite(masked).all())
        assert float(masked[0, 1]) < -1e4


@pytest.mark.parametrize("zero", ["feature", "weight"])
def test_cosine_head_is_differentiable_twice_at_zero(zero):
    head = nets.CosineHead(3)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32)
    params = head.init(jax.random.key(0), features)["params"]
    if zero == "feature":
        features = features.at[0].set(0)
    else:
        params = params | {"kernel": params["kernel"].at[:, 0].set(0)}

    def loss(params, features):
        return jnp.sum(jnp.exp(head.apply({"params": params}, features)[0]))

    first = jax.jit(jax.grad(loss, (0, 1)))
    second = jax.jit(jax.grad(lambda p, f: sum(jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(first(p, f))), (0, 1)))
    _, scores = head.apply({"params": params}, features)
    for tree in (scores, first(params, features), second(params, features)):
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))
    assert np.array_equal(scores[0] if zero == "feature" else scores[:, 0], np.zeros(3 if zero == "feature" else 2))


def test_init_and_apply_are_pure():
    net, variables = convnet()
    assert same(variables, init(net, jax.random.key(0)))
    assert not same(variables, init(net, jax.random.key(1)))
    before = jax.tree.map(np.array, variables)
    x = images(4, 8)
    first = apply(net, variables, x)
    outputs, stats = apply_train(net, variables, x)
    assert same(before, variables)
    assert same(first, apply(net, variables, x))
    assert not same(stats, variables.batch_stats)
    assert jax.tree.structure(stats) == jax.tree.structure(variables.batch_stats)
    assert not np.allclose(outputs.logits, first.logits)
    assert type(variables.params) is type(stats) is dict


def test_inference_treats_each_image_alone():
    net, variables = convnet()
    x = images(4, 8)
    np.testing.assert_allclose(apply(net, variables, x).logits[:1], apply(net, variables, x[:1]).logits, rtol=1e-5)


def test_classifier_computes_in_the_dtype_of_its_images():
    net, variables = convnet("cosine")
    outputs = apply(net, variables, images(2, 8).astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in outputs} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_reset_head_changes_only_the_head(head):
    net, variables = convnet(head)
    reset = nets.reset_head(net, jax.random.key(7), variables.params)
    assert same(reset["backbone"], variables.params["backbone"])
    assert jax.tree.map(jnp.shape, reset) == jax.tree.map(jnp.shape, variables.params)
    assert not np.allclose(reset["head"]["kernel"], variables.params["head"]["kernel"])


@pytest.mark.parametrize("config", [CONVNET, RESNET], ids=lambda config: config.name)
def test_scopes(config):
    params = shapes(nets.build(config, 5, "cosine"), 8)[0].params
    for scope, parts in {"head": {"head"}, "last_stage": {"head", "stage_2"}}.items():
        marks = nets.scope_of(params, scope)
        assert jax.tree.structure(marks) == jax.tree.structure(params)
        for path, mark in jax.tree_util.tree_leaves_with_path(marks):
            assert mark is bool(parts & {path[0].key, path[1].key})
    assert all(jax.tree.leaves(nets.scope_of(params, "all")))
    with pytest.raises(UserError, match="last_stage"):
        nets.scope_of(params, "laststage")


def test_the_last_of_eleven_stages_is_the_tenth():
    params = {"backbone": {f"stage_{i}": {"kernel": 0} for i in range(11)}, "head": {"kernel": 0}}
    marks = nets.scope_of(params, "last_stage")["backbone"]
    assert [name for name, stage in marks.items() if stage["kernel"]] == ["stage_10"]


def test_equal_builds_share_a_compilation():
    traces = []

    @partial(jax.jit, static_argnums=0)
    def run(net, variables, x):
        traces.append(net)
        return nets.apply(net, variables, x).logits

    _, variables = convnet()
    for config in (CONVNET, nets.NetConfig(widths=(4, 6, 8))):
        net = nets.build(config, 5, "linear")
        run(net, variables, images(2, 8))
    assert len(traces) == 1


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean 'resnet32'"):
        nets.build(nets.NetConfig(name="resnet23"), 5, "linear")
    with pytest.raises(UserError, match=r"widths \(\): has to be at least 1 long"):
        check_ranges(nets.NetConfig(widths=()))
