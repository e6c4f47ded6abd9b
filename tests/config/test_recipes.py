"""Recipes: what they set, how they are named, and that their inner loops fit a head."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest

from mnemonics_jax import nets
from mnemonics_jax.config.presets import PRESETS, RECIPES, make_config
from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.exemplars.base import ExemplarStrategy
from mnemonics_jax.exemplars.inner import InnerProblem, InnerProgram, Models, fit_exemplar_model
from mnemonics_jax.exemplars.inner_batches import draw_batches
from mnemonics_jax.methods import METHODS
from mnemonics_jax.nets.classifier import Classifier, apply, imprint_means, init
from mnemonics_jax.nets.heads import CosineHead, LinearHead
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.random_streams import Use, random_stream, root_key

SIZES = {
    "cifar10": (64, 10),
    "cifar100": (64, 100),
    "tiny-imagenet": (512, 200),
    "imagenet-subset": (512, 100),
    "imagenet": (512, 1000),
    "images-resnet32": (64, 100),
}
SIZES |= {"digits": (64, 10), "images": (128, 20), "npz": (128, 20)}
"""Width of the features, which is that of the network, and number of classes of each preset."""


def test_the_paper_recipe_is_what_the_text_says():
    for preset in PRESETS:
        config = make_config(preset, "lucir", "mnemonics", "paper")
        settings = config.exemplars
        assert (settings.inner_init, settings.inner_scope, settings.start) == ("current", "all", "random")
        assert (settings.inner_optimizer, settings.inner_momentum, settings.anchor) == ("sgd", 0, 0)
        assert (settings.adjust, settings.change_cap, settings.adjust_cap) == (True, 1, 1)
        assert (config.recipe, config.net.weight_transfer) == ("paper", True)
        config = make_config(preset, "lucir", "herding", "paper")
        assert (config.exemplars.inner_init, config.net.weight_transfer) == ("current", False)


def test_the_default_recipe_is_the_closed_form_but_on_the_digits():
    for preset, kind in ((preset, kind) for preset in PRESETS for kind in EXEMPLARS):
        config = make_config(preset, "lucir", kind)
        assert config == make_config(preset, "lucir", kind, "default")
        settings = config.exemplars
        loop = (settings.inner_init, settings.inner_scope, settings.unroll_length)
        assert loop == (("reset_head", "head", 50) if preset == "digits" else ("class_means", "head", 0))
        if settings.learns and preset != "digits":
            assert (settings.anchor, settings.change_cap, settings.outer_steps) == (20, 0.05, 200)
        if preset.startswith("imagenet"):
            assert settings.inner_batch == 64


def test_an_unknown_recipe_is_refused_with_similar_names():
    with pytest.raises(UserError, match=r"unknown recipe 'papr': did you mean 'paper'\? known are default, paper"):
        make_config("digits", recipe="papr")


def test_no_preset_calls_its_settings_the_papers():
    assert not any("paper" in preset.summary for preset in PRESETS.values())


class _Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, (x.shape[-1],))


class _Through(nn.Module):
    """A backbone whose features are its images, times a trained scale of each."""

    @nn.compact
    def __call__(self, x, train):
        return _Scale(name="stage_0")(x.reshape(len(x), -1))


def separable(width, classes, each, length, rng):
    """Features of `each` samples of every class, like those that end in a ReLU: apart, and of about that length."""
    centres = np.maximum(np.random.default_rng(7).normal(size=(classes, width)), 0)
    labels = np.repeat(np.arange(classes, dtype=np.int32), each)
    rows = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    rows = rows[labels] + 0.5 * rng.normal(size=(len(labels), width)) / np.sqrt(width)
    return (length * rows).astype(np.float32), labels


class _Fitting(ExemplarStrategy):
    """The settings of the inner loop alone: those that all exemplar kinds have."""

    name = "fitting"

    def choose(self, features, amount, room, rng):
        raise NotImplementedError


@functools.cache
def accuracy(settings, head, width, classes, length=5.0, trained=True):
    """Percent of new samples that Θᴱ gets right, by the inner loop from a Θ_i whose head is trained or new."""
    net = Classifier(_Through(), {"linear": LinearHead, "cosine": CosineHead}[head](classes))
    models = init(net, jax.random.key(0), (1, 1, width))
    data, labels = separable(width, classes, 4, length, np.random.default_rng(0))
    if trained:
        imprinted = jax.jit(imprint_means)(models.params, data, labels, np.ones(len(data), np.float32))
        models = models._replace(params=imprinted)
    images, labels = separable(width, classes, settings.per_class, length, np.random.default_rng(1))
    program = InnerProgram(net, settings, Augmentation(0, False, (0.0,), (1.0,)))
    usable = np.ones((classes, settings.per_class), bool)
    batches = draw_batches(settings, usable, random_stream(root_key(0), 0, Use.FIT))
    rates = np.full(max(settings.unroll_length, 1), settings.inner_learning_rate, np.float32)
    problem = InnerProblem(Models(models, models), labels, np.ones(classes, bool))
    images = images.reshape(-1, 1, 1, width)
    fitted = fit_exemplar_model(program, problem, images, rates, batches, np.zeros(2, np.uint32))
    queries, labels = separable(width, classes, 4, length, np.random.default_rng(2))
    logits = jax.jit(lambda images: apply(net, fitted, images).logits)(queries.reshape(-1, 1, 1, width))
    return 100 * float((np.argmax(logits, axis=1) == labels).mean())


@functools.cache
def width_of(net):
    """Width of a network's features, without computing any."""
    built = nets.build(net, 2, "linear")
    return jax.eval_shape(lambda: init(built, jax.random.key(0), (32, 32, 3))).params["head"]["kernel"].shape[0]


def inner_settings(config):
    names = [field.name for field in dataclasses.fields(ExemplarStrategy)]
    return _Fitting(**{name: getattr(config.exemplars, name) for name in names})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_inner_loop_leaves_the_head_unfitted(preset, recipe):
    """Every method × kind, and with them every N: fewer classes seen are easier. Cells of the same loop share a fit."""
    width, classes = SIZES[preset]
    for method, kind in itertools.product(METHODS, EXEMPLARS):
        config = make_config(preset, method, kind, recipe)
        assert width_of(config.net) == width
        assert accuracy(inner_settings(config), config.method.head, width, classes) >= 95


def test_the_paper_recipe_lives_on_its_start():
    """Ten steps of 0.01 fit no new head: the recipe reaches 95 % since Θ_i does. FIDELITY.md has these figures."""
    settings = inner_settings(make_config("cifar100", recipe="paper"))
    for head in ("linear", "cosine"):
        assert accuracy(settings, head, *SIZES["cifar100"], trained=False) < 5
    settings = inner_settings(make_config("digits", recipe="paper"))
    assert accuracy(settings, "linear", *SIZES["digits"], trained=False) < 50


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_ten_steps_from_a_new_head_are_found_out(head):
    """What the presets had before there were recipes."""
    settings = _Fitting(unroll_length=10, inner_init="reset_head", inner_learning_rate=0.1, inner_momentum=0.9)
    assert accuracy(settings, head, *SIZES["cifar100"]) < 95
