"""Runs in lockstep: what they compute is what each would alone, by as few calls as the longest of them needs."""

import _thread
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.compile_cache import num_compilations
from mnemonics_jax.runtime.lockstep import enter_phase, masked_step, num_lanes, run, vmapped_call


@jax.jit
def double(x):
    return 2 * x


def power(exponent, x, extra):
    return {"value": x**exponent + extra["shift"]}


power = jax.jit(power, static_argnums=0)


def chosen(wanted, x):
    return jax.lax.cond(wanted, lambda: jnp.sin(x), lambda: x)


chosen = jax.jit(chosen)


@pytest.fixture
def calls(monkeypatch):
    """The functions of the programs that were called for runs in lockstep, with their lanes' arguments."""
    made, program = [], lockstep._lanes

    def noting(function, static, batched, *args):
        made.append((function, args))
        return program(function, static, batched, *args)

    monkeypatch.setattr(lockstep, "_lanes", noting)
    return made


def test_alone_the_plain_function(calls):
    assert vmapped_call(double, np.float32(3)) == 6
    assert vmapped_call(power, 3, np.float32(2), {"shift": np.float32(1)})["value"] == 9
    assert num_lanes() == 1
    assert not calls


def test_each_run_gets_what_it_would_alone(calls):
    results = {}

    def work(lane):
        x = np.full((2, 3), lane + 1, np.float32)
        results[lane] = vmapped_call(power, 2, x, {"shift": np.float32(lane)})["value"]
        assert num_lanes() == 3

    run([lambda lane=lane: work(lane) for lane in range(3)])
    assert len(calls) == 1
    for lane in range(3):
        assert np.array_equal(results[lane], np.full((2, 3), (lane + 1) ** 2 + lane))


def test_runs_of_different_lengths_wait_for_the_one_behind(calls):
    """Two stages of n and m calls: not one call more than the longest n and the longest m, and one compilation each."""
    lengths = [(5, 1), (2, 4), (3, 2)]
    sums = {}
    before = num_compilations()

    def work(lane):
        first, second = lengths[lane]
        x = np.ones(7, np.float32)
        for _ in range(first):
            x = vmapped_call(double, x, static=0)
        for _ in range(second):
            x = vmapped_call(power, 1, x, {"shift": np.float32(1)})["value"]
        sums[lane] = x

    run([lambda lane=lane: work(lane) for lane in range(3)])
    assert [function for function, _ in calls].count(double) == 5
    assert [function for function, _ in calls].count(power) == 4
    assert num_compilations() - before <= 2
    for lane, (first, second) in enumerate(lengths):
        assert np.array_equal(sums[lane], np.full(7, 2.0**first + second))


def test_a_run_that_is_phases_ahead_waits(calls):
    """A stage's name says nothing of how far a run is; its phase does."""

    def work(phases):
        x = np.ones(5, np.float32)
        for phase in phases:
            enter_phase(phase)
            x = vmapped_call(double, x, static=0)
            x = vmapped_call(power, 1, x, {"shift": np.float32(0)})["value"]

    run([lambda: work([0, 1, 2]), lambda: work([2])])
    assert len(calls) == 6


def test_what_is_not_batched_stays_one_condition(calls):
    results = {}

    def work(lane, wanted):
        args = (np.asarray(wanted), np.float32(lane + 1))
        results[lane] = vmapped_call(chosen, *args, static=0, batched=(False, True))

    flags = [True, False, True]
    run([lambda lane=lane: work(lane, flags[lane]) for lane in range(3)])
    # One call for each value of the flag, in which it is no longer a choice between computed branches.
    assert len(calls) == 2
    assert np.allclose([results[lane] for lane in range(3)], [np.sin(1), 2, np.sin(3)])
    args = [(np.asarray(True), np.float32(1))] * 3
    text = {
        batched: str(jax.make_jaxpr(lambda *a, b=batched: lockstep._lanes(chosen, (), (b, True), *a))(*args))
        for batched in (False, True)
    }
    assert "cond[" in text[False]
    assert "cond[" not in text[True]


def test_a_step_in_which_no_run_is_active_is_left_out():
    """Counted by a callback: how often the body of a scan is computed, for runs of 1, 3 and 3 of 5 steps."""
    computed = []

    @jax.jit
    def advance(x, active):
        def step(carry, _):
            jax.debug.callback(lambda: computed.append(1))
            return carry * 2, carry

        def maybe(carry, active):
            return masked_step(active, step, carry, None, jnp.zeros(()))

        return jax.lax.scan(maybe, x, active)

    results = {}

    def work(lane, steps):
        results[lane] = vmapped_call(advance, np.float32(lane + 1), np.arange(5) < steps, static=0)

    run([lambda lane=lane, steps=steps: work(lane, steps) for lane, steps in enumerate((1, 3, 3))])
    jax.effects_barrier()
    for lane, steps in enumerate((1, 3, 3)):
        x, log = results[lane]
        assert x == (lane + 1) * 2**steps
        assert np.array_equal(log, [(lane + 1) * 2**k if k < steps else 0 for k in range(5)])
    assert len(computed) in (3, 9), "three steps, each once or once for each lane"
    computed.clear()
    x, _ = vmapped_call(advance, np.float32(1), np.arange(5) < 2, static=0)
    jax.effects_barrier()
    assert (float(x), len(computed)) == (4, 2)


def test_one_that_fails_leaves_the_others(calls):
    done = []

    def work(lane):
        x = np.float32(lane)
        for step in range(3):
            x = vmapped_call(double, x, static=0)
            if (lane, step) == (1, 1):
                raise ValueError("lane 1")
        done.append((lane, float(x)))

    with pytest.raises(ValueError, match="lane 1"):
        run([lambda lane=lane: work(lane) for lane in range(3)])
    assert sorted(done) == [(0, 0.0), (2, 16.0)]
    # The empty lane does not change the program's shape.
    assert [len(args) for _, args in calls] == [3, 3, 3]


def test_a_program_that_cannot_be_traced_fails_in_the_runs_that_called_it():
    caught = []

    def work():
        try:
            vmapped_call(power, 2, np.float32(1), {"other": np.float32(1)})
        except KeyError as error:
            caught.append(error)

    run([work, work])
    assert len(caught) == 2


def test_ctrl_c_reaches_every_run():
    ended = []

    def work(lane):
        try:
            for step in range(1000):
                vmapped_call(double, np.float32(step), static=0)
                if (lane, step) == (0, 3):
                    _thread.interrupt_main()
        except KeyboardInterrupt:
            ended.append(lane)
            raise

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run([lambda lane=lane: work(lane) for lane in range(2)])
    assert sorted(ended) == [0, 1]
    assert threading.active_count() == before
