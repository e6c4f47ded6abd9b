"""The end-to-end benchmark: both sides have the same task, and the peer does what it says. Tiny; no run of ours."""

import importlib.util
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import EXPERIMENTS, load_script

import mnemonics_jax as mn
from mnemonics_jax.exemplars.herd import herd

FOLDER = EXPERIMENTS / "benchmarks"
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


@pytest.fixture
def end_to_end(monkeypatch):
    # A script's folder is on the path when it runs.
    monkeypatch.syspath_prepend(str(FOLDER))
    yield load_script(FOLDER / "end_to_end.py")
    sys.modules.pop("peers", None)


@pytest.fixture
def tiny(end_to_end):
    return end_to_end.Config(classes=10, images=6, epochs=1, batch=16, exemplars=2, runs=1)


def test_our_run_has_the_sizes_of_the_benchmark(end_to_end, tiny, tmp_path):
    np.savez(tmp_path / "p.npz", **end_to_end.pictures(tiny))
    setup = mn.make_setup(end_to_end.settings(tiny, tmp_path / "p.npz"))
    assert setup.stream.sizes == (5, 1, 1, 1, 1, 1)
    assert setup.stream.dataset.image_shape == (32, 32, 3)
    assert (setup.config.method.name, setup.config.exemplars.name) == ("icarl", "herding")
    assert (setup.config.net.name, setup.config.train.epochs, setup.config.train.batch_size) == ("resnet32", 1, 16)
    assert setup.config.train.balanced_steps == 0
    assert setup.config.exemplars.per_class == 2


@NEEDS_TORCH
def test_a_line_for_each_run_and_the_ratio_of_the_fastest(end_to_end, tiny, monkeypatch, capsys):
    monkeypatch.setattr(end_to_end.mn, "run", lambda config, out: SimpleNamespace(accuracy=[50.0] * 6))
    end_to_end.main(tiny)
    ours, theirs, ratio = capsys.readouterr().out.splitlines()
    assert re.match(r"run 0   JAX .* accuracies 50 50 50 50 50 50", ours)
    assert re.match(r"run 0   PyTorch .* accuracies( \d+){6}$", theirs)
    assert re.match(r"JAX is \d+\.\d\d times as fast as PyTorch", ratio)


@NEEDS_TORCH
def test_the_peer_herds_and_predicts_as_we_do(end_to_end, tiny):
    peer = end_to_end.Peer(tiny, end_to_end.pictures(tiny), np.arange(10)[::-1])
    import torch

    index = torch.nonzero(peer.labels == 9).flatten()
    assert index.tolist() == list(range(6))  # the label 0, last in this order
    features = peer.features(peer.images[index]).numpy()
    picks = np.asarray(herd(features[None], np.ones((1, 6), bool), 2))[0]
    assert peer.herd(index).tolist() == index[picks.tolist()].tolist()
    peer.exemplars = {label: torch.nonzero(peer.labels == label).flatten() for label in range(10)}
    peer.test_images, peer.test_labels = peer.images, peer.labels
    assert peer.accuracy(10) > 50  # of what the means are made of; chance is 10


@NEEDS_TORCH
def test_the_peer_crops_within_the_margin(end_to_end, tiny):
    import torch

    peer = end_to_end.Peer(tiny, end_to_end.pictures(tiny), np.arange(10))
    torch.manual_seed(0)
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    out = peer.augmented(images) * peer.std + peer.mean
    kept = (out > 0.5).all(1).flatten(1).sum(1)
    assert out.shape == images.shape
    assert int(kept.min()) >= 28 * 28
    assert int(kept.max()) == 32 * 32
