"""The presets of the paper's table: every cell, against the settings that the literature gives."""

import dataclasses
import itertools

import pytest

from mnemonics_jax import nets
from mnemonics_jax.config.presets import make_config

CLASSES = {"cifar100": 100, "imagenet-subset": 100, "imagenet": 1000}
CELLS = list(itertools.product(CLASSES, (5, 10, 25), ("lwf", "icarl", "bic", "lucir"), ("herding", "mnemonics")))


@pytest.mark.parametrize(("preset", "phases", "method", "kind"), CELLS)
def test_every_cell_of_the_table_has_its_settings(preset, phases, method, kind):
    config = make_config(preset, method, kind)
    config.validate()
    stream = type(config.stream)(phases=phases)
    sizes = stream.sizes(CLASSES[preset])
    assert sizes == (CLASSES[preset] // 2, *[CLASSES[preset] // 2 // phases] * phases)
    assert (config.method.name, config.exemplars.name, config.exemplars.per_class) == (method, kind, 20)
    train = config.train
    assert (train.learning_rate, train.decay, train.momentum, train.batch_size) == (0.1, 0.1, 0.9, 128)
    drops = [round(share * train.epochs) for share in train.milestones]
    large = preset != "cifar100"
    expected = ("resnet18", 90, [30, 60], 1e-4) if large else ("resnet32", 160, [80, 120], 5e-4)
    assert (config.net.name, train.epochs, drops, train.weight_decay) == expected
    if method == "lucir":
        assert config.method.lambda_base == (10 if large else 5)
        assert (config.method.margin, config.method.top_k, config.method.margin_weight) == (0.5, 2, 1)
    if method in ("lwf", "icarl"):
        assert (config.method.temperature, config.method.distillation_weight) == (2, 0.25)
    data = config.data
    assert (data.flip, data.crop_padding, data.resized_crop) == ((True, 0, True) if large else (True, 4, False))
    assert data.image_size == (224 if large else None)
    nets.build(config.net, CLASSES[preset], config.method.head)


@pytest.mark.parametrize(
    ("preset", "method", "later", "tuning"),
    [
        ("images", "lwf", (40, 0.05), 200),
        ("npz", "icarl", (40, 0.05), 200),
        ("npz", "bic", (20, 0.1), 0),
        ("images", "lucir", (20, 0.02), 200),
        ("npz", "joint", (40, 0.05), 0),
        ("digits", "lwf", (120, 0.05), 200),
        ("digits", "bic", (120, 0.05), 200),
        ("digits", "lucir", (120, 0.05), 0),
        ("cifar100", "lucir", (160, 0.1), 0),
    ],
)
def test_training_of_later_phases_is_that_of_the_method(preset, method, later, tuning):
    train = make_config(preset, method).train
    assert (train.later_epochs or train.epochs, train.later_learning_rate or train.learning_rate) == later
    assert (train.balanced_steps, train.balanced_learning_rate) == (tuning, 0.01)
    assert train.steps(1, 64 * train.batch_size) == 64 * later[0]
    # Phase 0 is the same for all methods, so that they can share Θ_0.
    assert dataclasses.replace(train, **LATER) == dataclasses.replace(make_config(preset, "joint").train, **LATER)


LATER = {"later_epochs": None, "later_learning_rate": None, "balanced_steps": 0}


@pytest.mark.parametrize(
    ("preset", "method", "typicality"),
    [
        ("images", "lwf", 5.0),
        ("npz", "icarl", 5.0),
        ("images", "lucir", 5.0),
        ("images", "bic", 0.0),
        ("npz", "bic", 0.0),
        ("digits", "lucir", 0.0),
        ("cifar100", "lucir", 0.0),
    ],
)
@pytest.mark.parametrize("kind", ["gradient", "mnemonics"])
def test_how_typical_chosen_images_are_is_that_of_the_method(preset, method, typicality, kind):
    exemplars = make_config(preset, method, kind).exemplars
    assert exemplars.typicality == typicality
    # What a method sets stands beside what the preset sets for all methods.
    expected = dataclasses.replace(make_config(preset, "lwf", kind).exemplars, typicality=typicality)
    assert exemplars == expected
