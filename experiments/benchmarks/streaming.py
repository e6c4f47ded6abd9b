"""Measure memory and speed of streamed images.

    python experiments/benchmarks/streaming.py --images 20000 --workers 0 1 2

Writes N synthetic 256-pixel JPEGs to a temporary folder and reads them as training does: random resized crops to 224
pixels, batches of 128, chunks of four. For each number of workers, in a process of its own: images per second, the
peak resident memory of the process and its workers, and the share of the time that a device of a given speed would
have waited. The step of that device is a pause of the same length.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from mnemonics_jax.data.lazy_images import LazyImages
from mnemonics_jax.data.sampling import Shuffled
from mnemonics_jax.data.streamed_store import StreamedStore
from mnemonics_jax.runtime.devices import all_devices
from mnemonics_jax.runtime.random_streams import Use, random_stream, root_key

_BATCH, _CHUNK, _SIZE = 128, 4, 224


def write_images(folder: Path, count: int) -> None:
    """Write synthetic photographs: smooth noise at three scales, about as many bytes as a real JPEG of the size."""
    rng = np.random.default_rng(0)
    for i in range(count):
        layers = [
            np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((256, 256), Image.BICUBIC))
            for n in (4, 16, 64)
        ]
        mixed = np.tensordot([0.5, 0.3, 0.2], np.stack(layers).astype(np.float32), 1)
        Image.fromarray(mixed.astype(np.uint8)).save(folder / f"{i:06}.jpg", quality=90)


class Peak(threading.Thread):
    """Thread that samples, every 20 ms, the peak resident memory of this process, and of it with its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.all = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until `stop` is called."""
        process = psutil.Process()
        while not self._over.wait(0.02):
            own = process.memory_info().rss
            total = own
            for child in process.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.own, self.all = max(self.own, own), max(self.all, total)

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self.join()


def measure(folder: Path, workers: int, images: int, device_speed: float) -> dict[str, float]:
    """Read `images` of the files once and return the measurements.

    `device_speed` is the images per second of the device that is imitated, 0 for none.
    """
    records = sorted(str(path) for path in folder.iterdir())[:images]
    before = psutil.Process().memory_info().rss
    peak = Peak()
    peak.start()
    store = StreamedStore(LazyImages(records, _SIZE, True), workers, True, all_devices())
    order = Shuffled(np.arange(len(records)), random_stream(root_key(0), 0, Use.ORDER), _BATCH, len(records) // _BATCH)
    chunks = store.chunks(order, 0, _CHUNK, root_key(1))
    next(chunks).block_until_ready()
    began, waited, seen = time.perf_counter(), 0.0, 0
    while True:
        asked = time.perf_counter()
        chunk = next(chunks, None)
        if chunk is None:
            break
        chunk.block_until_ready()
        waited += time.perf_counter() - asked
        seen += chunk.shape[0] * chunk.shape[1]
        if device_speed:
            time.sleep(chunk.shape[0] * chunk.shape[1] / device_speed)
    took = time.perf_counter() - began
    peak.stop()
    mib = 1 << 20
    return {
        "images": len(records),
        "workers": workers,
        "device images/s": device_speed,
        "images/s": round(seen / took, 1),
        "share of time waited": round(waited / took, 3),
        "MiB before": round(before / mib),
        "peak MiB, this process": round(peak.own / mib),
        "peak MiB, with workers": round(peak.all / mib),
    }


def main() -> None:
    """Run each measurement in a process of its own and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="JPEGs to write (default: 20000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="worker processes; 0 uses threads")
    parser.add_argument("--device-speed", type=float, nargs="+", default=[0.0], help="images per second of a device")
    parser.add_argument("--child", nargs=4, metavar=("FOLDER", "WORKERS", "IMAGES", "SPEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, workers, images, speed = options.child
        print(json.dumps(measure(Path(folder), int(workers), int(images), float(speed))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        sizes = [path.stat().st_size for path in Path(folder).iterdir()]
        print(f"{len(sizes)} JPEGs of 256×256 pixels, {np.mean(sizes) / 1024:.1f} KiB on average")
        cases = [(w, n, 0.0) for w in options.workers for n in (options.images // 4, options.images)]
        cases += [(w, options.images // 4, s) for w in options.workers for s in options.device_speed if s]
        for workers, images, speed in cases:
            child = [sys.executable, __file__, "--child", folder, str(workers), str(images), str(speed)]
            print(subprocess.run(child, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
