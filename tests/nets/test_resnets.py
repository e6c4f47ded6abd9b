"""The residual networks against NumPy and the literature's parameter counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import nets

RESNET32 = nets.NetConfig(name="resnet32")
RESNET18 = nets.NetConfig(name="resnet18")


def shapes(net, size):
    variables = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (size, size, 3)))
    return variables, jax.eval_shape(partial(nets.apply, net), variables, jnp.zeros((2, size, size, 3)))


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_resnet32_has_466256_parameters_and_64_features(head):
    variables, outputs = shapes(nets.build(RESNET32, 100, head), 32)
    assert set(variables.params) == {"backbone", "head"}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params["backbone"])) == 466_256
    assert outputs.features.shape == (2, 64)
    assert outputs.logits.shape == outputs.scores.shape == (2, 100)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_resnet18_has_the_parameters_of_imagenet_s_and_512_features(head):
    variables, outputs = shapes(nets.build(RESNET18, 1000, head), 224)
    # 11,689,512 with the linear classifier of 512 · 1000 weights and 1000 biases that is counted in the literature.
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params["backbone"])) == 11_689_512 - 513_000
    assert outputs.features.shape == (2, 512)
    assert outputs.logits.shape == outputs.scores.shape == (2, 1000)


def numpy_conv(x, kernel, stride):
    size = kernel.shape[0]
    pad = size // 2
    n, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y = np.empty((n, -(-h // stride), -(-w // stride), kernel.shape[3]))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = np.tensordot(window, kernel, 3)
    return y


def numpy_max_pool(x):
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    y = np.empty((n, -(-h // 2), -(-w // 2), c))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            y[:, i, j] = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
    return y


def numpy_resnet(params, stats, x, last_relu, stages, blocks, large_stem):
    def norm(name, x, scope):
        p, s = params, stats
        for key in (*scope, name):
            p, s = p[key], s[key]
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    x = np.maximum(norm("bn", numpy_conv(x, params["stem"]["conv"]["kernel"], 1 + large_stem), ("stem",)), 0)
    x = numpy_max_pool(x) if large_stem else x
    for stage in range(stages):
        for block in range(blocks):
            scope = (f"stage_{stage}", f"block_{block}")
            p = params[scope[0]][scope[1]]
            stride = 2 if stage > 0 and block == 0 else 1
            y = np.maximum(norm("bn_0", numpy_conv(x, p["conv_0"]["kernel"], stride), scope), 0)
            y = norm("bn_1", numpy_conv(y, p["conv_1"]["kernel"], 1), scope)
            if stride == 2:
                x = norm("shortcut_bn", numpy_conv(x, p["shortcut_conv"]["kernel"], 2), scope)
            x = x + y
            if last_relu or (stage, block) != (stages - 1, blocks - 1):
                x = np.maximum(x, 0)
    return x.mean((1, 2))


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("config", "size", "layout"), [(RESNET32, 9, (3, 5, False)), (RESNET18, 33, (4, 2, True))], ids=["32", "18"]
)
def test_resnets_against_numpy(head, config, size, layout):
    net = nets.build(config, 5, head)
    rng = np.random.default_rng(0)
    shape = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (size, size, 3)))
    # Every leaf random and positive where it must be, so that no scale, shift or statistic can be left out unnoticed.
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) * 0.2, shape.params)
    stats = jax.tree.map(lambda leaf: rng.uniform(0.5, 2, leaf.shape), shape.batch_stats)
    x = rng.normal(size=(2, size, size, 3))
    expected = numpy_resnet(params["backbone"], stats["backbone"], x, head == "linear", *layout)
    with jax.enable_x64(True):
        variables = nets.Variables(*jax.tree.map(jnp.asarray, (params, stats)))
        outputs = jax.jit(partial(nets.apply, net))(variables, jnp.asarray(x))
    np.testing.assert_allclose(outputs.features, expected, rtol=1e-6, atol=1e-9)
    weight = params["head"]["kernel"]
    if head == "linear":
        np.testing.assert_allclose(outputs.logits, expected @ weight + params["head"]["bias"], rtol=1e-6, atol=1e-9)
        assert np.array_equal(outputs.logits, outputs.scores)
    else:
        cosine = expected @ weight
        cosine /= np.linalg.norm(expected, axis=1)[:, None] * np.linalg.norm(weight, axis=0)
        np.testing.assert_allclose(outputs.scores, cosine, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(outputs.logits, params["head"]["sigma"] * cosine, rtol=1e-6, atol=1e-9)
