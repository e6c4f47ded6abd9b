"""The presets of the paper's table: every cell, against the settings that the literature gives."""

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
