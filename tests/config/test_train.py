"""The learning rate of each step: where it falls, and that of later phases."""

import numpy as np

from mnemonics_jax.config.train import TrainConfig


def test_the_learning_rate_falls_with_the_first_step_of_each_milestone():
    settings = TrainConfig(learning_rate=0.5, milestones=(0.5, 0.75), decay=0.1, later_learning_rate=None)
    expected = np.float32([0.5] * 10 + [0.05] * 5 + [0.005] * 5)
    np.testing.assert_allclose(settings.learning_rates(0, 20), expected, rtol=1e-6)
    np.testing.assert_array_equal(settings.learning_rates(3, 20), settings.learning_rates(0, 20))
    # The step nearest to a fraction of them.
    np.testing.assert_allclose(settings.learning_rates(0, 5), np.float32([0.5, 0.5, 0.05, 0.05, 0.005]), rtol=1e-6)


def test_later_phases_and_the_balanced_steps_have_rates_of_their_own():
    settings = TrainConfig(learning_rate=0.5, later_learning_rate=0.2, milestones=(0.5,), decay=0.1)
    np.testing.assert_allclose(settings.learning_rates(0, 2), np.float32([0.5, 0.05]), rtol=1e-6)
    np.testing.assert_allclose(settings.learning_rates(1, 2), np.float32([0.2, 0.02]), rtol=1e-6)
    balanced = TrainConfig(balanced_learning_rate=0.3, balanced_steps=4, milestones=(0.5,), decay=0.1)
    np.testing.assert_allclose(balanced.balanced_learning_rates(), np.float32([0.3, 0.3, 0.03, 0.03]), rtol=1e-6)
