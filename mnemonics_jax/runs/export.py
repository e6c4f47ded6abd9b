"""A run's exemplars and model as files that other programs can read."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from mnemonics_jax.config.parsing import read_config
from mnemonics_jax.phase.setup import Setup, make_setup
from mnemonics_jax.phase.state import PhaseState, initial_state
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runs.model import write_model
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import cannot_write, check_local
from mnemonics_jax.runtime.folders import atomic_folder

_MOST_BYTES = 200
"""Most bytes of a folder's name; file systems have room for 255."""


def export(run: Path, to: Path, warn: Callable[[str], None]) -> None:
    """Write the exemplars and the model after the last finished phase of the run in `run` into the new folder `to`.

    `images/` is an image folder of PNG files, for images of one or three channels: train/ has the exemplars of the
    classes seen, test/ the data set's test images of these classes. `exemplars.npz` has the same images as arrays for
    the npz source; where the run stores float32 exemplars, it also has them as `train_images_float32` in [0, 1].
    `model/` is the last model, for `load_model`. A run without exemplars has only `model/`.

    Raises:
        UserError: when `to` exists, when no phase is finished, and when the run or its data cannot be read.
    """
    check_local("--to", to)
    if to.exists():
        raise UserError(f"{to} exists already: name another folder with --to, or remove it")
    setup = make_setup(read_config(run / "config.json"))
    with CheckpointFolder(run / "checkpoints") as checkpoints:
        checkpoint = checkpoints.latest(setup, initial_state(setup), warn, between_phases=True)
    if checkpoint is None:
        raise UserError(f"no phase of {run} is finished yet: let `mnemonics run` finish one first")
    state = checkpoint.resume_point.state
    with cannot_write(to), atomic_folder(to) as draft:
        if setup.config.method.uses_memory:
            _write_exemplars(setup, state, draft, warn)
        write_model(setup, state, draft / "model")


def _write_exemplars(setup: Setup, state: PhaseState, to: Path, warn: Callable[[str], None]) -> None:
    dataset, order = setup.stream.dataset, setup.stream.order
    seen = setup.stream.seen(int(state.phase) - 1)
    # In the data set's order of classes, renumbered from 0 where some classes have not arrived yet.
    labels = np.sort(order[:seen])
    names = [dataset.class_names[label] for label in labels]
    positions = np.argsort(order)[labels]
    images = np.concatenate([state.memory.images[p, : state.memory.counts[p]] for p in positions])
    bytes_ = images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)
    tested = np.flatnonzero(np.isin(dataset.test_labels, labels))
    arrays = {
        "train_images": bytes_,
        "train_labels": np.repeat(np.arange(seen), state.memory.counts[positions]),
        "test_images": dataset.test_images[tested],
        "test_labels": np.searchsorted(labels, dataset.test_labels[tested]),
        "class_names": np.array(names),
    }
    np.savez_compressed(
        to / "exemplars.npz", **arrays, **({} if images.dtype == np.uint8 else {"train_images_float32": images})
    )
    if dataset.image_shape[2] not in (1, 3):
        warn(f"images of {dataset.image_shape[2]} channels do not fit into PNG: only exemplars.npz has them")
        return
    for split in ("train", "test"):
        _write_images(arrays[f"{split}_images"], arrays[f"{split}_labels"], names, to / "images" / split)


def _write_images(
    images: UInt8[np.ndarray, "image height width channel"],
    labels: Int[np.ndarray, " image"],
    names: list[str],
    to: Path,
) -> None:
    """Write each image as a PNG file into the folder of its class, numbered from 0."""
    taken: set[str] = set()
    for label, name in enumerate(names):
        encoded = folder_name(name)
        # Two classes may have one name, or names that differ behind what a folder's name has room for.
        if encoded in taken:
            encoded += f"%{label}"
        taken.add(encoded)
        folder = to / encoded
        folder.mkdir(parents=True)
        for number, image in enumerate(images[labels == label]):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(folder / f"{number:05}.png")


def folder_name(name: str) -> str:
    """Return a class's name as a folder's name, with unsafe characters and a leading dot percent-encoded.

    Class names come from files, so "../x" must not leave the folder. The end of a name that is too long for a file
    system is left out.
    """

    def percent(found: re.Match) -> str:
        return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))

    encoded = re.sub(r"[^\w +.,()-]", percent, name)
    encoded = "%2E" + encoded[1:] if encoded.startswith(".") else encoded or "%"
    return encoded.encode()[:_MOST_BYTES].decode(errors="ignore")
