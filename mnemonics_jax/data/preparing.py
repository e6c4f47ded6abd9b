"""Downloads and prepares a TensorFlow data set in a process of its own: it needs TensorFlow, this one never does."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mnemonics_jax.errors import UserError

_EXTRA = 'pip install "mnemonics-jax[prepare]"'
# Download and prepared files together, as the TensorFlow Datasets catalogue has them.
_SIZES = {"cifar100": "0.3 GiB", "imagenet2012": "300 GiB"}
_MADE_OF = {
    "cifar100": "cifar-100-binary.tar.gz from https://www.cs.toronto.edu/~kriz/",
    "imagenet2012": "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org/download-images",
}


def prepare(name: str, folder: Path) -> None:
    """Prepares the data set `name`, so that its ArrayRecord files lie in `folder`; progress shows on stderr.

    `folder` is DATA_DIR/NAME/VERSION. Raises `UserError` when TensorFlow is missing, when there is no network or file
    to prepare from, and for whatever else goes wrong.
    """
    data_dir = folder.parent.parent
    manual = data_dir / "downloads" / "manual"
    print(f"preparing {name} in {folder}, this once: {_SIZES[name]} with the downloads", file=sys.stderr)
    # TensorFlow takes whole accelerators when it sees them.
    environment = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    child = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main()", name, str(data_dir), str(manual)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    if child.returncode == 0:
        return
    try:
        kind, message = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        kind, message = "other", f"the preparing process ended with status {child.returncode}"
    if kind == "missing":
        raise UserError(f"preparing {name} needs TensorFlow and importlib_resources ({message}): {_EXTRA}")
    raise UserError(
        f"{name} cannot be prepared ({message}): put {_MADE_OF[name]} in {manual}, or a prepared copy, with its "
        f".array_record files, in {folder}"
    )


def _main(name: str, data_dir: str, manual: str) -> int:
    """The child: 0, or 1 with the kind of failure and a message as JSON in the last line of stdout."""
    try:
        import importlib_resources  # noqa: F401
        import tensorflow  # noqa: F401
    except ImportError as error:
        print(json.dumps(["missing", str(error)]))
        return 1
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(json.dumps(["other", f"{type(error).__name__}: {lines[0]}"]))
        return 1
    return 0


def main() -> None:
    """The child process: data set, data folder and folder of the user's own downloads are its arguments."""
    sys.exit(_main(*sys.argv[1:]))
