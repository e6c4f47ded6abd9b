"""Every method's loss, calibration and restriction against plain NumPy and against cases worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import nets
from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.methods import METHODS, Classes, LogitCorrection, LossInputs, method_class
from mnemonics_jax.methods.bic import BiC
from mnemonics_jax.methods.icarl import ICaRL
from mnemonics_jax.methods.lucir import LUCIR, imprint, margin_ranking
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.nets import Outputs
from mnemonics_jax.phase.training import Context, TrainBatches, TrainProgram, TrainState, train_chunk
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import check_ranges

CLASSES, BATCH, FEATURES = 9, 14, 6
PHASES = {"base phase": (0, 5), "later phase": (5, 7), "one new class": (7, 8)}


def masks(old, seen, classes=CLASSES):
    position = np.arange(classes)
    return Classes(jnp.asarray(position < old), jnp.asarray((position >= old) & (position < seen)))


def problem(phase, seed=0):
    """Float64 arrays by name; labels among the classes seen, the first of them one old and one new class."""
    old, seen = PHASES[phase]
    rng = np.random.default_rng(seed)
    arrays = {f"{who}logits": rng.normal(0, 3, (BATCH, CLASSES)) for who in ("", "old ")}
    arrays |= {f"{who}scores": rng.uniform(-1, 1, (BATCH, CLASSES)) for who in ("", "old ")}
    arrays |= {f"{who}features": rng.normal(size=(BATCH, FEATURES)) for who in ("", "old ")}
    arrays["labels"] = np.append([0, seen - 1], rng.integers(0, seen, BATCH - 2))
    arrays |= {"scale": rng.uniform(0.5, 1.5, CLASSES), "shift": rng.normal(size=CLASSES)}
    return arrays, old, seen


def inputs(a, old, seen):
    outputs, previous = (Outputs(*(jnp.asarray(a[w + k]) for k in Outputs._fields)) for w in ("", "old "))
    bias = LogitCorrection(jnp.asarray(a["scale"]), jnp.asarray(a["shift"]))
    return LossInputs(outputs, previous, jnp.asarray(a["labels"]), masks(old, seen), bias)


def loss_and_grad(method, a, old, seen):
    """The loss and its derivatives by the outputs of the model and of the previous model."""
    given = inputs(a, old, seen)

    def loss(outputs, previous):
        return method.loss(given._replace(outputs=outputs, previous=previous))

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(given.outputs, given.previous)
    return float(value), *(jax.tree.map(np.asarray, g) for g in grads)


# The losses once more: sample by sample, and only the columns of the classes concerned are ever looked at.


def softmax(z):
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def kl(teacher, student, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return (p * np.log(p / q)).sum()


def ce(z, y):
    return -np.log(softmax(z)[y])


def expected_finetune(method, a, n, old, seen):
    return ce(a["logits"][n, :seen], a["labels"][n])


def expected_lwf(method, a, n, old, seen):
    """Weight T² β |old| on the divergence as a mean over the |old| classes."""
    learn = ce(a["logits"][n, :seen], a["labels"][n])
    if old == 0:
        return learn
    mean = kl(a["old logits"][n, :old], a["logits"][n, :old], method.temperature) / old
    return learn + method.temperature**2 * method.distillation_weight * old * mean


def expected_icarl_sigmoid(method, a, n, old, seen):
    p, teacher = (1 / (1 + np.exp(-a[k][n])) for k in ("logits", "old logits"))
    targets = [*teacher[:old], *(float(a["labels"][n] == c) for c in range(old, seen))]
    return -sum(t * np.log(p[c]) + (1 - t) * np.log(1 - p[c]) for c, t in enumerate(targets))


def expected_bic(method, a, n, old, seen):
    z, t = (a[k][n] * a["scale"] + a["shift"] for k in ("logits", "old logits"))
    keep = kl(t[:old], z[:old], method.temperature) if old else 0
    return old / seen * keep + (1 - old / seen) * ce(z[:seen], a["labels"][n])


def expected_lucir(method, a, n, old, seen):
    f, g = a["features"][n], a["old features"][n]
    drift = 1 - f @ g / np.sqrt((f @ f) * (g @ g))
    ranks, pairs = 0.0, 0
    for scores, y in zip(a["scores"], a["labels"], strict=True):
        rivals = sorted(scores[old:seen])[-method.top_k :] if y < old else []
        ranks += sum(max(0, method.margin - scores[y] + rival) for rival in rivals)
        pairs += len(rivals)
    rank = ranks / pairs if pairs else 0  # a mean over the batch's pairs, so each sample's term is that mean
    weight = method.lambda_base * np.sqrt(old / (seen - old))
    return ce(a["logits"][n, :seen], a["labels"][n]) + weight * drift + method.margin_weight * rank


CASES = {
    "finetune": (METHODS["finetune"](), expected_finetune),
    "joint": (METHODS["joint"](), expected_finetune),
    "lwf": (LwF(temperature=1.7, distillation_weight=0.4), expected_lwf),
    "icarl softmax": (ICaRL(temperature=3.0), expected_lwf),
    "icarl sigmoid": (ICaRL(objective="sigmoid"), expected_icarl_sigmoid),
    "bic": (BiC(temperature=1.3), expected_bic),
    "lucir": (LUCIR(lambda_base=3.0, margin=0.6, top_k=2, margin_weight=0.7), expected_lucir),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", CASES)
def test_loss_is_that_of_plain_numpy(name, phase):
    a, old, seen = problem(phase)
    method, expected = CASES[name]
    samples = [expected(method, a, n, old, seen) for n in range(BATCH)]
    with jax.enable_x64(True):
        # The weights made of class counts are float32.
        np.testing.assert_allclose(method.loss(inputs(a, old, seen)), np.mean(samples), rtol=2e-7)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", CASES)
def test_unseen_classes_and_the_previous_models_other_logits_have_no_influence(name, phase):
    a, old, seen = problem(phase)
    changed = {key: value.copy() for key, value in a.items()}
    for key, first in (("logits", seen), ("scores", seen), ("old logits", old), ("old scores", 0)):
        changed[key][:, first:] = 1.0 if "scores" in key else 1e4
    method, _ = CASES[name]
    with jax.enable_x64(True):
        value, grad, grad_previous = loss_and_grad(method, a, old, seen)
        value_changed, grad_changed, _ = loss_and_grad(method, changed, old, seen)
    assert value == value_changed
    assert jax.tree.all(jax.tree.map(np.array_equal, grad, grad_changed))
    assert np.abs(grad.logits).max() > 1e-3
    assert not grad.logits[:, seen:].any()
    assert not grad.scores[:, seen:].any()
    assert not any(leaf.any() for leaf in grad_previous)


@pytest.mark.parametrize(
    ("name", "share"), [("lwf", 1), ("icarl softmax", 1), ("bic", 2 / 7), ("icarl sigmoid", None), ("lucir", None)]
)
def test_distilling_a_model_from_itself_has_no_gradient(name, share):
    """What is left is the gradient of the cross-entropy alone, derived by hand: (softmax − one-hot) / batch."""
    a, old, seen = problem("later phase")
    a |= {"old logits": a["logits"], "old features": a["features"]}
    a |= {"scale": np.ones(CLASSES), "shift": np.zeros(CLASSES)}
    with jax.enable_x64(True):
        _, grad, _ = loss_and_grad(CASES[name][0], a, old, seen)
    np.testing.assert_allclose(grad.features, 0, atol=1e-14)
    if name == "icarl sigmoid":
        np.testing.assert_allclose(grad.logits[:, :old], 0, atol=1e-14)
    elif share:
        rows = [softmax(z[:seen]) - np.eye(seen)[y] for z, y in zip(a["logits"], a["labels"], strict=True)]
        np.testing.assert_allclose(grad.logits[:, :seen], share * np.stack(rows) / BATCH, atol=1e-8)


def calibration(scale, shift, samples=20_000):
    """Logits, and labels drawn from the softmax of the corrected ones: 4 old, 2 new and 1 unseen class."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (samples, 7)).astype(np.float32)
    bias = LogitCorrection(
        np.array([1.2, 1.2, 0.9, 0.9, 1, 1, 1], np.float32), np.array([0.3, 0.3, -1, -1, 0, 0, 0], np.float32)
    )
    z = logits * bias.scale + bias.shift
    z[:, 4:6] = logits[:, 4:6] * scale + shift
    noise = rng.gumbel(size=(samples, 6))  # argmax(z + Gumbel noise) is a draw from softmax(z)
    return logits, (z[:, :6] + noise).argmax(axis=1), np.ones(samples, np.float32), masks(4, 6, 7), bias


fit_correction = jax.jit(BiC().fit_correction)


@pytest.mark.parametrize(("scale", "shift"), [(0.7, -0.8), (1.4, 0.5), (1.0, 2.0)])
def test_bic_recovers_scale_and_shift_of_the_new_classes_alone(scale, shift):
    logits, labels, weights, classes, bias = calibration(scale, shift)
    fitted = fit_correction(logits, labels, weights, classes, bias)
    np.testing.assert_allclose(fitted.scale[4:6], scale, atol=0.05)
    np.testing.assert_allclose(fitted.shift[4:6], shift, atol=0.05)
    for numbers, before in zip(map(np.asarray, fitted), bias, strict=True):
        assert numbers[4] == numbers[5]
        np.testing.assert_array_equal(numbers[[0, 1, 2, 3, 6]], before[[0, 1, 2, 3, 6]])


def test_bic_ignores_rows_of_weight_zero_and_unseen_logits():
    logits, labels, weights, classes, bias = calibration(0.7, -0.8)
    weights[15_000:] = 0
    fitted = fit_correction(logits, labels, weights, classes, bias)
    np.testing.assert_allclose([fitted.scale[4], fitted.shift[4]], [0.7, -0.8], atol=0.06)
    logits[15_000:], labels[15_000:] = 100 * np.arange(7), 5
    logits[:, 6] = 1e4
    jax.tree.map(np.testing.assert_array_equal, fit_correction(logits, labels, weights, classes, bias), fitted)


def test_bic_keeps_the_bias_without_old_classes_or_samples():
    logits, labels, weights, classes, _ = calibration(0.7, -0.8)
    bias = LogitCorrection(np.ones(7, np.float32), np.zeros(7, np.float32))
    for kept, over in ((0 * weights, classes), (weights, masks(0, 6, 7))):
        jax.tree.map(np.testing.assert_array_equal, fit_correction(logits, labels, kept, over, bias), bias)


def test_lucir_imprints_directions_of_the_means_at_the_old_columns_mean_norm():
    kernel = jnp.array([[3.0, 0.0, 9.0, 9.0, 7.0], [4.0, 1.0, 9.0, 9.0, 7.0]])  # old norms 5 and 1
    means = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.3, 0.4], [-0.2, 0.0], [0.0, 0.0]])
    expected = [[3.0, 0.0, 1.8, -3.0, 7.0], [4.0, 1.0, 2.4, 0.0, 7.0]]
    np.testing.assert_allclose(imprint(kernel, means, masks(2, 4, 5)), expected, rtol=1e-6)
    np.testing.assert_array_equal(imprint(kernel, means, masks(0, 4, 5)), kernel)
    params = {"head": {"kernel": kernel, "sigma": 2.0}, "backbone": {"w": 3.0}}
    prepared = LUCIR().init_head(params, means, masks(2, 4, 5))
    np.testing.assert_allclose(prepared["head"].pop("kernel"), expected, rtol=1e-6)
    assert prepared == {"head": {"sigma": 2.0}, "backbone": {"w": 3.0}}


SCORES = [[0.5, 0.1, 0.3, 0.6, -0.2, 0.99], [0.9, 0.8, -1.0, -0.9, -0.8, 1.0], [0.9, 0.9, 0.9, -0.5, 0.9, 0.9]]


@pytest.mark.parametrize(
    ("labels", "old", "seen", "top_k", "expected"),
    [
        ([0, 1, 3], 2, 5, 2, (0.6 + 0.3 + 0 + 0) / 4),  # own 0.5 against 0.6 and 0.3; own 0.8 far above −0.8 and −0.9
        ([0, 1, 3], 2, 5, 1, (0.6 + 0) / 2),
        ([0, 1, 3], 2, 3, 2, (0.3 + 0) / 2),  # one new class, K = 2
        ([1, 1, 1], 2, 5, 50, (0.7 + 1.0 + 0.2 + 3 * 0.0 + 0.5 + 0.5) / 9),  # K beyond all classes; own 0.1, 0.8, 0.9
        ([2, 4, 3], 2, 5, 2, 0.0),  # no sample of an old class
        ([0, 1, 3], 0, 5, 2, 0.0),  # no old class
    ],
)
def test_lucir_margin_ranking(labels, old, seen, top_k, expected):
    def rank(scores):
        return margin_ranking(scores, jnp.array(labels), masks(old, seen, 6), 0.5, top_k)

    value, grad = jax.value_and_grad(rank)(jnp.array(SCORES))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(grad).all()
    assert grad.any() == (expected > 0)


def test_lucir_restrict_zeroes_the_old_columns_only():
    updates = {"head": {"kernel": jnp.ones((3, 6)), "sigma": 1.0}, "backbone": {"w": 2.0}}
    restricted = LUCIR().mask_updates(updates, masks(2, 5, 6))
    np.testing.assert_array_equal(restricted["head"].pop("kernel"), [[0, 0, 1, 1, 1, 1]] * 3)
    assert restricted == {"head": {"sigma": 1.0}, "backbone": {"w": 2.0}}


def test_lucir_old_columns_stay_bit_for_bit_in_training():
    net = nets.build(nets.NetConfig(widths=(4,)), 6, "cosine")
    start = nets.init(net, jax.random.key(0), (6, 6, 1))
    program = TrainProgram(net, LUCIR(), Augmentation(1, True, (0.5,), (0.25,)), momentum=0.9, weight_decay=0.1)
    rng = np.random.default_rng(0)
    batches = TrainBatches(
        images=jnp.asarray(rng.integers(0, 256, (5, 8, 6, 6, 1)).astype(np.uint8)),
        labels=rng.integers(0, 5, (5, 8)),
        learning_rate=np.full(5, 0.1, np.float32),
        index=np.arange(5),
        active=np.array([True] * 4 + [False]),
    )
    state = TrainState(start, program.optimizer().init(start.params))
    context = Context(start, masks(2, 5, 6), LogitCorrection(jnp.ones(6), jnp.zeros(6)))
    (trained, _), _ = train_chunk(program, state, context, batches, jnp.array([1, 2], jnp.uint32))
    before, after = (np.asarray(v.params["head"]["kernel"]) for v in (start, trained))
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (np.abs(after - before).max(axis=0)[2:5] > 1e-3).all()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LwF(temperature=0.0), "--method.temperature 0.0"),
        (ICaRL(distillation_weight=-0.5), "--method.distillation-weight -0.5"),
        (BiC(temperature=0.0), "--method.temperature 0.0"),
        (BiC(holdout=0.0), "--method.holdout 0.0: has to be greater than 0 and at most 0.5"),
        (BiC(holdout=0.6), "--method.holdout 0.6"),
        (LUCIR(top_k=0), "--method.top-k 0"),
        (LUCIR(lambda_base=-1.0), "--method.lambda-base -1.0"),
        (LUCIR(margin=-0.1), "--method.margin -0.1: has to be at least 0"),
        (LUCIR(margin_weight=-2.0), "--method.margin-weight -2.0"),
    ],
)
def test_settings_out_of_range_are_refused(method, message):
    with pytest.raises(UserError) as caught:
        check_ranges(method, "method.")
    assert message in str(caught.value)


def test_methods_by_name():
    for name, cls in METHODS.items():
        assert method_class(name) is cls
        check_ranges(cls())
        cls().validate()
    with pytest.raises(UserError, match=r"unknown method 'lucr': did you mean 'lucir'\? known are bic, .*, lwf$"):
        method_class("lucr")
