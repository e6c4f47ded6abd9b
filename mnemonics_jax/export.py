"""A run's exemplars and model in forms that other programs read, and the model's way back."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Int, UInt8
from PIL import Image

from mnemonics_jax.checkpoint import Checkpoints
from mnemonics_jax.config_file import read_config
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.errors import UserError
from mnemonics_jax.files import write_json
from mnemonics_jax.journal import cannot_write
from mnemonics_jax.methods import Bias
from mnemonics_jax.nets import NetConfig, build
from mnemonics_jax.nets.classifier import Classifier, Outputs, Variables, apply, init
from mnemonics_jax.state import PhaseState, Setup, initial_state, make_setup


def export(run: Path, to: Path, warn: Callable[[str], None]) -> None:
    """Writes what the run in `run` has after its last finished phase into the new folder `to`.

    `images/` is an image folder: in train/ the exemplars of the classes seen, in test/ the data set's test images of
    these classes, as PNG (images of one or three channels). `exemplars.npz` holds the same as the arrays that the npz
    source reads, and `train_images_float32` in [0, 1] where the run keeps exemplars unrounded. `model/` is the last
    model, for `load_model`. A run without exemplars has only the last of these. Raises `UserError` when `to` exists,
    nothing is finished, or the run's data cannot be read.
    """
    if to.exists():
        raise UserError(f"{to} exists already: name another folder with --to, or remove it")
    setup = make_setup(read_config(run / "config.json"))
    with Checkpoints(run / "checkpoints") as checkpoints:
        saved = checkpoints.latest(setup, initial_state(setup), warn, between_phases=True)
    if saved is None:
        raise UserError(f"no phase of {run} is finished yet: let `mnemonics run` go on first")
    state = saved.point.state
    draft = to.with_name(to.name + ".part")
    with cannot_write(to):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        if setup.config.method.uses_memory:
            _write_exemplars(setup, state, draft, warn)
        _write_model(setup, state, draft / "model")
        draft.rename(to)


def _write_exemplars(setup: Setup, state: PhaseState, to: Path, warn: Callable[[str], None]) -> None:
    dataset, order = setup.stream.dataset, setup.stream.order
    seen = setup.stream.seen(int(state.phase) - 1)
    # In the data set's own order of classes, numbered anew where some are still to come.
    labels = np.sort(order[:seen])
    names = [dataset.class_names[label] for label in labels]
    positions = np.argsort(order)[labels]
    kept = np.concatenate([state.memory.images[p, : state.memory.counts[p]] for p in positions])
    bytes_ = kept if kept.dtype == np.uint8 else np.rint(kept * 255).astype(np.uint8)
    tested = np.flatnonzero(np.isin(dataset.test_labels, labels))
    arrays = {
        "train_images": bytes_,
        "train_labels": np.repeat(np.arange(seen), state.memory.counts[positions]),
        "test_images": dataset.test_images[tested],
        "test_labels": np.searchsorted(labels, dataset.test_labels[tested]),
        "class_names": np.array(names),
    }
    np.savez_compressed(
        to / "exemplars.npz", **arrays, **({} if kept.dtype == np.uint8 else {"train_images_float32": kept})
    )
    if dataset.image_shape[2] not in (1, 3):
        warn(f"images of {dataset.image_shape[2]} channels do not fit into PNG: exemplars.npz alone holds them")
        return
    for split in ("train", "test"):
        _write_images(arrays[f"{split}_images"], arrays[f"{split}_labels"], names, to / "images" / split)


def _write_images(
    images: UInt8[np.ndarray, "image height width channel"],
    labels: Int[np.ndarray, "image"],
    names: list[str],
    to: Path,
) -> None:
    """One PNG file an image, numbered within its class's folder."""
    for label, name in enumerate(names):
        folder = to / folder_name(name)
        folder.mkdir(parents=True)
        for number, image in enumerate(images[labels == label]):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(folder / f"{number:05}.png")


def folder_name(name: str) -> str:
    """A class's name with what a folder's name may not hold, or what would hide it, percent-encoded.

    Names come from files, so "../x" must not lead anywhere, and two names must not meet in one folder.
    """
    encoded = re.sub(r"[^\w +.,()-]", lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found[0])), name)
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded or "%"


def _write_model(setup: Setup, state: PhaseState, to: Path) -> None:
    to.mkdir()
    dataset, phase = setup.stream.dataset, int(state.phase) - 1
    arrays = {**state.variables._asdict(), "bias": state.bias._asdict()}
    try:
        with ocp.StandardCheckpointer() as orbax:
            orbax.save(to.absolute() / "arrays", arrays)
            orbax.wait_until_finished()
    # Orbax reports a full disk by ValueError, OSError and errors of JAX's own, by where it struck.
    except Exception as error:
        raise UserError(f"{to} cannot be written ({error}): make room and give the same command again") from error
    write_json(
        to / "model.json",
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


@dataclass(frozen=True)
class Model:
    """An exported model. `class_names` are those of its logits, in their order of arrival."""

    net: Classifier
    variables: Variables
    bias: Bias
    augmentation: Augmentation
    class_names: tuple[str, ...]

    def __call__(self, images: UInt8[np.ndarray, "image height width channel"]) -> Outputs:
        """Features and (BiC: corrected) logits of images, float32 [image, feature] and [image, class]."""
        outputs = _outputs(self.net, self.augmentation, self.variables, images)
        return outputs._replace(logits=self.bias.correct(outputs.logits)[:, : len(self.class_names)])


@partial(jax.jit, static_argnums=(0, 1))
def _outputs(
    net: Classifier,
    augmentation: Augmentation,
    variables: Variables,
    images: UInt8[jax.Array | np.ndarray, "image height width channel"],
) -> Outputs:
    return apply(net, variables, augmentation.evaluate(images))


def load_model(folder: Path | str) -> Model:
    """The model in a folder `model/` that `mnemonics export` has written."""
    folder = Path(folder)
    facts = json.loads((folder / "model.json").read_text())
    net_config = NetConfig(**{**facts["net"], "widths": tuple(facts["net"]["widths"])})
    net = build(net_config, facts["num_classes"], facts["head"])
    like = jax.eval_shape(lambda: init(net, jax.random.key(0), tuple(facts["image_shape"])))
    classes = jax.ShapeDtypeStruct((facts["num_classes"],), np.float32)
    with ocp.StandardCheckpointer() as orbax:
        arrays = orbax.restore(
            folder.absolute() / "arrays", {**like._asdict(), "bias": {"scale": classes, "shift": classes}}
        )
    bias = Bias(**arrays.pop("bias"))
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    return Model(net, Variables(**arrays), bias, Augmentation(0, False, mean, std), tuple(facts["class_names"]))
