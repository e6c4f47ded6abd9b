"""JAX behind modules that describe settings: not loaded before it is used, and then the same."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from mnemonics_jax.runtime import lazy

SETTINGS = ("config.presets", "config.parsing", "config.settings_file", "sweeps.sweep", "sweeps.table1", "runs.naming")


@pytest.mark.parametrize("module", SETTINGS)
def test_settings_load_no_jax(module):
    heavy = "('jax', 'flax', 'optax', 'orbax', 'matplotlib', 'tensorboardX', 'rich', 'absl')"
    program = f"import sys, mnemonics_jax.{module}; print([name for name in {heavy} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert child.stdout.strip() == "[]"


def test_names_are_those_of_the_modules():
    assert lazy.jnp.where is jnp.where
    assert lazy.jax.lax.scan is jax.lax.scan
    with pytest.raises(AttributeError, match="nonsense"):
        lazy.jnp.nonsense  # noqa: B018


def test_an_array_is_one_here_too():
    traced = []
    jax.jit(lambda x: traced.append(isinstance(x, lazy.Array)) or x)(jnp.zeros(2))
    assert traced == [True]
    assert isinstance(jnp.zeros(2), lazy.Array)
    assert not isinstance(np.zeros(2), lazy.Array)
    assert isinstance(jnp.zeros(3), Float[lazy.Array, " n"])
    assert not isinstance(jnp.zeros((3, 3)), Float[lazy.Array, " n"])
    assert not isinstance(jnp.zeros(3, int), Float[lazy.Array, " n"])
