"""A trained model as a function of images, from a run or from the folder that `mnemonics export` writes."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.methods import LogitCorrection
from mnemonics_jax.nets import NetConfig, build
from mnemonics_jax.nets.classifier import Classifier, Outputs, Variables, apply, init
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState
from mnemonics_jax.runtime.array_files import restore_arrays, save_arrays
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.folders import CorruptedError, verify_manifest, write_manifest


@dataclass(frozen=True)
class Model:
    """A trained model, called with images. `class_names` names the columns of its logits, in order of arrival."""

    net: Classifier
    variables: Variables
    correction: LogitCorrection
    augmentation: Augmentation
    class_names: tuple[str, ...]

    def __call__(self, images: UInt8[np.ndarray, "image height width channel"]) -> Outputs:
        """Return features [image, feature] and logits [image, class] of images, float32; BiC corrects the logits."""
        outputs = _outputs(self.net, self.augmentation, self.variables, images)
        return outputs._replace(logits=self.correction.correct(outputs.logits)[:, : len(self.class_names)])


@partial(jax.jit, static_argnums=(0, 1))
def _outputs(
    net: Classifier,
    augmentation: Augmentation,
    variables: Variables,
    images: UInt8[jax.Array | np.ndarray, "image height width channel"],
) -> Outputs:
    return apply(net, variables, augmentation.evaluate(images))


def model_of(setup: Setup, state: PhaseState) -> Model:
    """Return the model that the last finished phase of a run has trained."""
    dataset, stream = setup.stream.dataset, setup.stream
    seen = stream.order[: stream.seen(int(state.phase) - 1)]
    names = tuple(dataset.class_names[label] for label in seen)
    evaluation = Augmentation(0, False, tuple(dataset.mean), tuple(dataset.std))
    return Model(setup.net, state.variables, state.correction, evaluation, names)


def write_model(setup: Setup, state: PhaseState, to: Path) -> None:
    """Write the model of a run's last finished phase into the existing folder `to`, for `load_model`."""
    dataset, phase = setup.stream.dataset, int(state.phase) - 1
    save_arrays(to / "arrays", {**state.variables._asdict(), "correction": state.correction._asdict()})
    write_manifest(
        to,
        {
            "net": asdict(setup.config.net),
            "head": setup.config.method.head,
            "num_classes": setup.stream.num_classes,
            "image_shape": dataset.image_shape,
            "class_names": [dataset.class_names[label] for label in setup.stream.order[: setup.stream.seen(phase)]],
            "mean": dataset.mean,
            "std": dataset.std,
        },
    )


def load_model(folder: Path | str) -> Model:
    """Return the model in a folder `model/` that `mnemonics export` has written.

    Raises:
        UserError: when the model is missing, damaged, or in another format (`FormatError`).
    """
    folder = Path(folder)
    try:
        facts = verify_manifest(folder)
        net_config = NetConfig(**{**facts["net"], "widths": tuple(facts["net"]["widths"])})
        net = build(net_config, facts["num_classes"], facts["head"])
        like = jax.eval_shape(lambda: init(net, jax.random.key(0), tuple(facts["image_shape"])))
        classes = jax.ShapeDtypeStruct((facts["num_classes"],), np.float32)
        arrays = restore_arrays(
            folder / "arrays", like._asdict() | {"correction": {"scale": classes, "shift": classes}}
        )
    except CorruptedError as error:
        raise UserError(f"{error}: export the run again") from error
    # Move them to the device once, for all calls.
    arrays = jax.tree.map(jnp.asarray, arrays)
    correction = LogitCorrection(**arrays.pop("correction"))
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    return Model(net, Variables(**arrays), correction, Augmentation(0, False, mean, std), tuple(facts["class_names"]))
