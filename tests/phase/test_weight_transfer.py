"""Weight transfer: what trains in which phase, and the inner loop under it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mnemonics_jax.exemplars.inner import InnerProblem, Models, fit_exemplar_model
from mnemonics_jax.exemplars.inner_batches import draw_batches
from mnemonics_jax.nets import Classifier, ConvNet, LinearHead, NetConfig, ResNet, apply, apply_train, build, init
from mnemonics_jax.nets.layers import BatchNorm, Conv
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.nets.transfer import mask_transfer_updates
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runtime.random_streams import Use, random_stream


def changed(before, after):
    """Names of the parameters that differ, by kind: kernel, filter_scale, other, head."""
    kinds = set()
    after = flatten_dict(after)
    for path, value in flatten_dict(before).items():
        if not np.array_equal(value, after[path]):
            is_conv = path[-2].startswith(("conv", "shortcut_conv"))
            kinds.add("head" if path[0] == "head" else path[-1] if is_conv else "other")
    return kinds


def make(net, key):
    return jax.jit(lambda key: init(net, key, (8, 8, 3)))(key)


@pytest.mark.parametrize("name", ["convnet", "resnet32"])
def test_scales_of_one_change_nothing(name):
    key, images = jax.random.key(0), jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    plain = build(NetConfig(name=name), 5, "linear")
    transferred = build(NetConfig(name=name, weight_transfer=True), 5, "linear")
    variables = make(transferred, key)
    flat = flatten_dict(variables.params, sep="/")
    scales = [k for k in flat if k.endswith("filter_scale")]
    assert len(scales) == sum(k.endswith("conv/kernel") or ("/conv_" in k and k.endswith("kernel")) for k in flat)
    bare = make(plain, key)
    same = {path: flatten_dict(variables.params)[path] for path in flatten_dict(bare.params)}
    bare = bare._replace(params=unflatten_dict(same))
    logits = [
        jax.jit(apply, static_argnums=0)(*pair, images).logits for pair in ((transferred, variables), (plain, bare))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


def test_a_scale_multiplies_its_filter():
    conv = Conv(4, 3, transfer=True)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
    params = conv.init(jax.random.key(1), x)["params"]
    scale = np.random.default_rng(0).normal(size=(3, 4))
    out = conv.apply({"params": {**params, "filter_scale": scale}}, x)
    # Each input channel's own contribution, scaled by hand.
    expected = np.zeros((2, 5, 5, 4))
    for c in range(3):
        alone = jnp.zeros_like(x).at[..., c].set(x[..., c])
        expected += np.asarray(conv.apply({"params": params}, alone)) * scale[c]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", [ConvNet((8, 8), transfer=True), ResNet(1, (8, 16), transfer=True)])
def test_scales_and_the_shifts_behind_the_normalisation_get_gradients_in_training(backbone):
    net = Classifier(backbone, LinearHead(5))
    variables = make(net, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))

    @jax.jit
    def gradient(params):
        def loss(params):
            return cross_entropy(apply_train(net, variables._replace(params=params), images)[0].logits, labels, seen)

        labels, seen = jnp.arange(16) % 5, jnp.ones(5, bool)
        return jax.grad(lambda params: loss(params).mean())(params)

    flat = flatten_dict(gradient(variables.params)["backbone"])
    trained = {path: leaf for path, leaf in flat.items() if path[-1] in ("filter_scale", "bias")}
    assert len(trained) == sum(path[-1] == "kernel" for path in flat) * 2
    for path, leaf in trained.items():
        assert np.abs(leaf).max() > 1e-4, path


def test_a_shift_in_front_of_the_normalisation_would_do_nothing():
    """Why weight transfer has none: see `nets.transfer`."""
    norm, x = BatchNorm(), jax.random.normal(jax.random.key(0), (16, 5, 5, 3))
    variables = norm.init(jax.random.key(1), x, train=False)

    def output(shift, bias):
        params = {**variables["params"], "bias": bias}
        out, _ = norm.apply({**variables, "params": params}, x + shift, train=True, mutable=["batch_stats"])
        return (out**3 + out).mean()

    before, behind = jax.grad(output, argnums=(0, 1))(jnp.zeros(3), jnp.zeros(3))
    np.testing.assert_allclose(before, 0, atol=1e-6)
    assert (np.abs(behind) > 0.1).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_updates_are_switched_by_the_phase(frozen):
    net = build(NetConfig(widths=(4, 6), weight_transfer=True), 5, "linear")
    ones = jax.tree.map(jnp.ones_like, init(net, jax.random.key(0), (8, 8, 1)).params)
    kept = jax.tree.map(jnp.zeros_like, ones)
    kinds = changed(kept, mask_transfer_updates(ones, jnp.asarray(frozen)))
    assert kinds == {"head", "other"} | ({"filter_scale"} if frozen else {"kernel"})
    flat = flatten_dict(ones)
    again = mask_transfer_updates(flat, jnp.asarray(frozen))
    assert jax.tree.all(
        jax.tree.map(np.array_equal, again, flatten_dict(mask_transfer_updates(ones, jnp.asarray(frozen))))
    )


def test_a_network_without_weight_transfer_is_left_alone():
    params = init(build(NetConfig(widths=(4,)), 3, "linear"), jax.random.key(0), (8, 8, 1)).params
    assert jax.tree.all(jax.tree.map(np.array_equal, mask_transfer_updates(params, jnp.asarray(True)), params))


@pytest.mark.parametrize("method", ["lwf", "lucir"])
def test_kernels_freeze_after_the_base_phase(tiny, method):
    # The inner loop has its own way through the restriction: Θ^E must not move a kernel either.
    setup = tiny.setup(method, "mnemonics", net={"weight_transfer": True}, stream={"base": 8, "phases": 2})
    start = initial_state(setup)
    base = run_phase(setup, start, NoCallbacks())
    first = run_phase(setup, base, NoCallbacks())
    assert changed(start.variables.params, base.variables.params) == {"kernel", "other", "head"}
    assert changed(base.variables.params, first.variables.params) == {"filter_scale", "other", "head"}


def test_the_inner_loop_respects_the_frozen_kernels(tiny):
    setup = tiny.setup("lwf", "herding", net={"weight_transfer": True}, exemplars={"inner_init": "current"})
    state = run_phase(setup, initial_state(setup), NoCallbacks())
    images = state.memory.images.reshape(-1, *state.memory.images.shape[2:])
    seen = np.arange(10) < 5
    batches = draw_batches(setup.config.exemplars, state.memory.used, random_stream(state.key, 0, Use.FIT))
    for frozen, moved in ((True, {"filter_scale"}), (False, {"kernel"})):
        models = Models(state.variables, state.previous, frozen=np.asarray(frozen))
        key = np.zeros(2, np.uint32)
        labels, rates = state.memory.labels(), np.exp(state.log_rates)
        fitted = fit_exemplar_model(
            setup.inner_program, InnerProblem(models, labels, seen), images, rates, batches, key
        )
        assert changed(state.variables.params, fitted.params) == moved | {"other", "head"}
