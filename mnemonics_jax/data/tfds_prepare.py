"""Preparation of a TensorFlow data set in a child process: preparing needs TensorFlow, using the data does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mnemonics_jax.runtime.errors import UserError

_EXTRA = 'pip install "mnemonics-jax[prepare]"'
# Size of download and prepared files together, from the TensorFlow Datasets catalogue.
_SIZES = {"cifar10": "0.3 GiB", "cifar100": "0.3 GiB", "imagenet2012": "300 GiB"}
_MADE_OF = {
    "cifar10": "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/",
    "cifar100": "cifar-100-binary.tar.gz from https://www.cs.toronto.edu/~kriz/",
    "imagenet2012": "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org/download-images",
}


def prepare(name: str, folder: Path) -> None:
    """Prepare the data set `name`, which puts its ArrayRecord files into `folder`; show progress on stderr.

    `folder` is DATA_DIR/NAME/VERSION.

    Raises:
        UserError: if TensorFlow is missing, if there is neither network nor a downloaded file, or if anything else
            fails.
    """
    data_dir = folder.parent.parent
    manual = data_dir / "downloads" / "manual"
    print(f"preparing {name} in {folder} (only once): {_SIZES[name]} with the downloads", file=sys.stderr)
    # Hide accelerators from TensorFlow: it would reserve all their memory.
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
        raise UserError(
            f"preparing {name} needs TensorFlow and importlib_resources ({message}): install them with {_EXTRA}"
        )
    raise UserError(
        f"{name} cannot be prepared ({message}): put {_MADE_OF[name]} in {manual}, or a prepared copy, with its "
        f".array_record files, in {folder}"
    )


def _main(name: str, data_dir: str, manual: str) -> int:
    """Prepare the data set in the child process and return its exit status.

    On failure (status 1) the last line of stdout holds the kind of failure and a message as JSON.
    """
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
    """Run the child process with its arguments: data set, data folder, folder of files that the user downloaded."""
    sys.exit(_main(*sys.argv[1:]))
