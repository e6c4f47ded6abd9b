"""Figures: what they show, read back from the file or from what was drawn; no label overlaps another."""

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from mnemonics_jax.reports import figures
from mnemonics_jax.reports.figures.style import label, title
from mnemonics_jax.reports.formats import FORMATS
from mnemonics_jax.reports.statistics import Arm

RNG = np.random.default_rng(0)
AWKWARD = ("a$b", "x$^{", "\udcff\x00", "猫", "<script>alert(1)</script> and more", "n01882714", "", "i", "j", "k")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def boxes(monkeypatch):
    """Text and place of every label that is drawn. Axes hold more of them than they draw."""
    found, draw = {}, Text.draw

    def recording(self, renderer):
        draw(self, renderer)
        if self.get_visible() and self.get_text().strip():
            found[self] = self.get_window_extent(renderer)

    monkeypatch.setattr(Text, "draw", recording)
    return found


def overlapping(boxes):
    """Pairs of labels whose boxes share more than two pixels each way."""
    return [
        (one.get_text(), other.get_text())
        for (one, a), (other, b) in itertools.combinations(boxes.items(), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
    ]


def arm(method, kind, seeds, phases=6):
    runs = [
        {"seed": s, "seen_classes": list(range(5, 5 + phases)), "accuracy": list(90 - RNG.random(phases))}
        for s in seeds
    ]
    return Arm(method, kind, tuple(runs))


def matrices(phases, orders=3):
    return np.where(np.tri(phases, dtype=bool), RNG.uniform(0, 100, (orders, phases, phases)), np.nan)


def falling(phases):
    """Everything is right on arrival and wrong in the end, which makes the longest figures."""
    return np.where(np.eye(phases) > 0, 100.0, np.where(np.tri(phases, dtype=bool), 0.0, np.nan))[None]


def confusion(names, sizes):
    return figures.Confusion(RNG.integers(0, 20, (len(names), len(names))), tuple(names), sizes)


def cloud(classes, kind):
    data, exemplars = RNG.normal(size=(60, 2)), RNG.normal(size=(20, 2))
    return figures.Cloud(kind, data, RNG.integers(0, classes, 60), exemplars, RNG.integers(0, classes, 20))


KINDS = ("random", "herding", "mnemonics (unroll_length=5)")
DRAW = {
    "accuracy": lambda: figures.accuracy_curves(
        [arm(m, k, (0, 1)) for m in ("lwf", "icarl", "bic", "lucir") for k in (*KINDS, "own")]
    ),
    "accuracy of one run": lambda: figures.accuracy_curves([arm("joint", None, (0,))]),
    "groups": lambda: figures.group_accuracy({f"icarl {kind}": matrices(6) for kind in KINDS}),
    "many groups": lambda: figures.group_accuracy({f"icarl {kind}": matrices(26) for kind in KINDS}),
    "one run's groups": lambda: figures.group_accuracy({"finetune": matrices(2, orders=1)}),
    "groups of falling accuracy": lambda: figures.group_accuracy(
        {f"icarl {kind}": falling(11) for kind in (*KINDS, "own")}
    ),
    "confusion": lambda: figures.confusion_matrices(
        {f"icarl {kind}": confusion(AWKWARD, (5, 1, 1, 1, 1, 1)) for kind in KINDS}
    ),
    "confusion of many classes": lambda: figures.confusion_matrices(
        {f"icarl {k}": confusion([f"class {i}" for i in range(100)], (50, *[2] * 25)) for k in KINDS}
    ),
    "confusion of other classes": lambda: figures.confusion_matrices(
        {"a": confusion(AWKWARD, (5, 5)), "b": confusion("0123456789", (5, 5)), "c": confusion("012", (1, 1, 1))}
    ),
    "t-SNE": lambda: figures.tsne_panel(
        [[cloud(10, f"{kind}, after phase {p}") for kind in KINDS] for p in (1, 25)], AWKWARD
    ),
    "t-SNE with a gap": lambda: figures.tsne_panel([[None, cloud(4, "b")], [cloud(4, "a"), cloud(4, "b")]], "0123"),
    "t-SNE alone": lambda: figures.tsne_panel([[cloud(10, "herding")]], AWKWARD),
    "kinds": lambda: figures.exemplar_kinds(
        {kind: RNG.integers(0, 256, (6, 5, 8, 8, 1), np.uint8) for kind in KINDS}, AWKWARD[:6]
    ),
    "kinds of many exemplar_grid": lambda: figures.exemplar_kinds(
        {kind: RNG.random((10, 8, 16, 16, 3), np.float32) for kind in KINDS}, AWKWARD
    ),
    "one picture": lambda: figures.exemplar_kinds({"random": np.zeros((1, 1, 32, 32, 3), np.uint8)}, ["a"]),
    "change": lambda: figures.exemplar_comparison(*RNG.random((2, 6, 5, 16, 16, 3)), AWKWARD[:6]),
    "training": lambda: figures.training_curves(
        {k: figures.Training(np.arange(1.0, 41), RNG.random(40), RNG.random(40), (0.0, 20.0)) for k in KINDS}
    ),
    "outer loss": lambda: figures.outer_loss_curves(
        {
            f"icarl {k}": [(range(10, 101, 10), list(RNG.uniform(0.1, 2, 10))) for _ in range(26)]
            for k in (*KINDS, "own")
        },
    ),
    "outer loss of one phase": lambda: figures.outer_loss_curves({"icarl": [([], []), ([10], [0.5])]}),
}


@pytest.mark.parametrize("case", DRAW)
def test_no_label_lies_on_another_and_the_file_fits_a_page(boxes, tmp_path, case):
    figures.save(DRAW[case](), tmp_path / "figure.png")
    assert overlapping(boxes) == []
    height, width = pixels(tmp_path / "figure.png").shape[:2]
    assert 100 < width < 1300, "8 inches at 150 dpi, and a margin"
    assert 50 < height < 2000


def test_labels_are_drawn_as_they_are():
    assert label("a$b") == r"a\$b"
    assert label("\udcff\x00a\nb") == "??a?b"
    assert label("x" * 30, 10) == "x" * 9 + "…"
    assert title("icarl mnemonics (unroll_length=5)").splitlines() == ["icarl mnemonics", "(unroll_length=5)"]
    assert all(len(line) <= 24 for line in title("word " * 40).splitlines())


def test_a_heat_map_shows_its_numbers():
    values = np.array([[100.0, np.nan], [25.0, 75.0]])
    axes = figures.group_accuracy({"icarl": values[None]}).axes[0]
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "100"),
        ((0, 1), "25"),
        ((1, 1), "75"),
    ]
    heading = ["icarl", "forgetting (base classes) 75.0", "forgetting (average) 75.0", "backward transfer −75.0"]
    assert axes.get_title().splitlines() == heading


def test_the_heading_of_a_heat_map_has_means_of_the_orders_values():
    """The first group of the mean matrix falls from 50 to 30, that of each order by 40 from its best."""
    one = np.array([[80.0, np.nan, np.nan], [40.0, 70.0, np.nan], [40.0, 70.0, 90.0]])
    other = np.array([[20.0, np.nan, np.nan], [60.0, 70.0, np.nan], [20.0, 70.0, 90.0]])
    axes = figures.group_accuracy({"icarl": np.stack([one, other])}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["50", "50", "70", "30", "70", "90"]
    heading = ["icarl", "forgetting (base classes) 20.0", "forgetting (average) 20.0", "backward transfer −10.0"]
    assert axes.get_title().splitlines() == heading


def test_a_confusion_matrix_shows_shares_of_the_true_class_and_where_phases_begin():
    counts = np.array([[8, 2, 0], [1, 1, 2], [0, 0, 0]])
    axes = figures.confusion_matrices({"icarl": figures.Confusion(counts, ("a", "b", "c"), (2, 1))}).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[80, 20, 0], [25, 25, 50], [0, 0, 0]])
    horizontal = {line.get_ydata()[0] for line in axes.lines if line.get_ydata()[0] == line.get_ydata()[1]}
    assert horizontal == {1.5}


def test_curves_show_means_and_errors():
    runs = [{"seed": s, "seen_classes": [5, 10], "accuracy": [90.0, a]} for s, a in ((0, 40.0), (1, 60.0))]
    axes = figures.accuracy_curves([Arm("icarl", "herding", tuple(runs))]).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[5, 90], [10, 50]])
    # The standard error of two values is half their distance: 10 on either side of 50.
    assert axes.collections[0].get_paths()[0].get_extents().ymin == pytest.approx(40)


def test_kinds_without_a_style_of_their_own_are_told_apart():
    figure = figures.accuracy_curves([arm("icarl", kind, (0,)) for kind in ("mnemonics", "herding", "own", "other")])
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() != "None"]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 4


def test_a_method_has_a_panel_of_the_exemplar_model_only_where_that_differs():
    def run(method, kind, fitted):
        both = {"accuracy": [90.0, 80.0], "accuracy_exemplar_model": fitted}
        return Arm(method, kind, ({"seed": 0, "seen_classes": [5, 10], **both},))

    kinds = ("random", "herding")
    same, other = ([run(m, k, f) for k in kinds] for m, f in (("icarl", [90.0, 80.004]), ("lwf", [90.0, 75.0])))
    titles = [axes.get_title() for axes in figures.accuracy_curves([*other, *same]).axes]
    assert [title for title in titles if title] == ["lwf: Θ", "lwf: Θᴱ", "icarl"]
    lone = figures.accuracy_curves([run("bic", kind, None) for kind in kinds]).axes
    assert [axes.get_title() for axes in lone] == ["bic"]
    # The panels share their axes, which end near the lowest value.
    limits = {axes.get_ylim() for axes in figures.accuracy_curves(other).axes}
    assert len(limits) == 1
    assert 70 < min(limits.pop()) < 75


def coloured(path):
    """Pixels of the purple and of the orange end of the difference's colours."""
    red, green, blue = pixels(path).transpose(2, 0, 1)
    return ((blue > green + 40) & (blue > red + 10)).sum(), ((red > blue + 40) & (red > green + 10)).sum()


def test_a_difference_shows_what_changed_and_by_how_much(tmp_path):
    start = np.full((2, 3, 8, 8, 1), 128, np.uint8)
    path = tmp_path / "figure.png"

    def draw(learned):
        figures.save(figures.exemplar_comparison(start, learned, ("a", "b")), path)

    draw(start)
    assert coloured(path) == (0, 0)
    brighter, darker = start.copy(), start.copy()
    brighter[:, :, :4] += 12
    darker[:, :, :4] -= 12
    # 12 of 255 is 0.047, and 10 times that is just within half the range.
    assert figures.difference_scale(start, brighter) == 10
    draw(brighter)
    purple, orange = coloured(path)
    assert purple > 1000
    assert orange == 0
    draw(darker)
    assert coloured(path)[0] == 0
    assert coloured(path)[1] > 1000


def test_bytes_and_floats_are_the_same_pictures(tmp_path):
    images = RNG.integers(0, 256, (3, 4, 8, 8, 3), np.uint8)
    figures.save(figures.exemplar_kinds({"herding": images}, "abc"), tmp_path / "bytes.png")
    figures.save(figures.exemplar_kinds({"herding": images / np.float32(255)}, "abc"), tmp_path / "floats.png")
    np.testing.assert_array_equal(pixels(tmp_path / "bytes.png"), pixels(tmp_path / "floats.png"))


def test_tsne_keeps_neighbours_together_whatever_the_features_lengths():
    centres = np.eye(3, 16) * 5
    labels = np.repeat(np.arange(3), 30)
    features = (centres[labels] + RNG.normal(size=(90, 16)) * 0.3) * RNG.uniform(0.01, 100, (90, 1))
    plane = figures.tsne(features)
    distances = np.linalg.norm(plane[:, None] - plane, axis=-1) + np.diag(np.full(90, np.inf))
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.97
    np.testing.assert_array_equal(plane, figures.tsne(features))
    assert figures.tsne(features[:2]).shape == (2, 2)
    with pytest.raises(ValueError, match="1 sample: give at least 2"):
        figures.tsne(features[:1])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((40, 8)), "40 features that all have the same direction"),
        # Of different lengths, which t-SNE does not look at.
        (np.ones((40, 8)) * np.arange(1, 41)[:, None], "40 features that all have the same direction"),
        (np.full((40, 8), np.nan), "not finite"),
        (np.zeros((40, 8)), "40 features that all have the same direction"),
    ],
    ids=["same", "lengths", "nan", "zero"],
)
def test_features_that_tell_nothing_apart_are_refused_before_compiled_code_sees_them(features, message):
    with pytest.raises(ValueError, match=message):
        figures.tsne(features)


def test_one_feature_has_a_plane():
    assert np.isfinite(figures.tsne(np.linspace(-1, 1, 20)[:, None])).all()


def marks(svg):
    """The tooltips of an SVG, which have to be read as HTML is: without namespaces."""
    root = ElementTree.fromstring(svg)
    return [title.text for title in root.iter("title")]


def test_marks_have_their_exact_values_as_tooltips():
    run = {"seed": 0, "seen_classes": [5, 10], "accuracy": [90.0, 81.25]}
    svg = figures.inline_svg(figures.accuracy_curves([Arm("ic<arl", "herding", (run,))]), "mark")
    assert marks(svg) == ["ic<arl herding, Θ, 5 classes: 90.00 %", "ic<arl herding, Θ, 10 classes: 81.25 %"]
    values = np.array([[100.0, np.nan], [25.0, 75.5]])
    shown = marks(figures.inline_svg(figures.group_accuracy({"icarl": values[None]}), "mark"))
    assert [text for text in shown if text] == [
        "icarl: 100.00 % on the classes of phase 0 after phase 0",
        "icarl: 25.00 % on the classes of phase 0 after phase 1",
        "icarl: 75.50 % on the classes of phase 1 after phase 1",
    ]
    counts = figures.Confusion(np.array([[3, 1], [0, 0]]), ("a&b", "c"), (1, 1))
    shown = marks(figures.inline_svg(figures.confusion_matrices({"icarl": counts}), "mark"))
    assert shown[1] == "1 of 4 images of a&b (25.0 %) predicted as c"
    curve = figures.training_curves(
        {"a": figures.Training(np.array([1.0, 2]), np.array([0.5, np.nan]), np.ones(2), ())}
    )
    assert marks(figures.inline_svg(curve, "mark")) == ["a, epoch 1: 0.5", "a, epoch 1: 1 %", "a, epoch 2: 1 %"]


def test_an_inline_svg_refers_to_itself_alone():
    one, other = (figures.inline_svg(figures.accuracy_curves([arm("bic", "own", (0, 1))]), name) for name in "ab")
    ids = [{e.get("id") for e in ElementTree.fromstring(svg).iter() if e.get("id")} for svg in (one, other)]
    assert not ids[0] & ids[1]
    assert {e.get("href").removeprefix("#") for e in ElementTree.fromstring(one).iter("use")} <= ids[0]
    assert not re.search(r"url\(|https?:|<style|xmlns", one)


@pytest.mark.parametrize("form", FORMATS)
def test_a_figure_has_the_same_bytes_each_time_in_each_format(tmp_path, form):
    for name in ("one", "other"):
        figures.save(figures.group_accuracy({"icarl": falling(3)}), tmp_path / f"{name}.{form}")
    one, other = ((tmp_path / f"{name}.{form}").read_bytes() for name in ("one", "other"))
    assert one == other
    assert one.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])


def test_a_logarithmic_axis_of_one_decade_has_several_numbers(tmp_path):
    figure = figures.outer_loss_curves({"icarl": [([10, 20], [1.6, 1.5]), ([10, 20], [0.15, 0.13])]})
    figures.save(figure, tmp_path / "figure.png")
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    shown = [text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
    assert axes.get_yscale() == "log"
    assert shown == ["0.2", "0.5", "1"]
