"""That remembering helps: joint training above herding above no memory, on the digits over five class orders."""

import numpy as np
import pytest

import mnemonics_jax as mn

ORDERS = 5


@pytest.fixture(scope="module")
def average(tiny):
    """Average accuracy of each arm on each class order."""

    def arm(method, kind="herding"):
        configs = [tiny.config(method, kind, seed=seed, train={"epochs": 8}) for seed in range(ORDERS)]
        return np.array([mn.run(config).average_accuracy for config in configs])

    return {"joint": arm("joint"), "herding": arm("icarl"), "nothing": arm("finetune")}


def test_all_data_beats_exemplars_beats_nothing(average):
    joint, herding, nothing = (average[name] for name in ("joint", "herding", "nothing"))
    assert joint.mean() > herding.mean() + 5
    assert herding.mean() > nothing.mean() + 15
    assert (herding > nothing).all()


def test_the_bounds_are_where_they_should_be(average):
    assert average["joint"].mean() > 85
    # Without memory only the newest class is known: 5 of 5, then 1 of 6 up to 1 of 10, on average 30 %.
    assert average["nothing"].mean() < 45
