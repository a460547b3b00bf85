import io

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection

from mlp_jax.experiment import figures

STEPS = np.array([1.0, 2.0])


def png_width(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    return int.from_bytes(buffer.getvalue()[16:20], "big")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


# --- loss curves -------------------------------------------------------------------------------


def test_loss_curves_show_the_history():
    steps = np.array([10, 20, 30])
    metrics = {
        "train/loss": np.array([1.0, 0.5, 0.01]),
        "validation/loss": np.array([1.1, 0.7, 0.8]),
        "validation/accuracy": np.array([0.5, 0.8, 0.9]),
        "learning_rate": np.ones(3),
    }
    figure = figures.loss_curves(steps, metrics, x_label="epoch", best_step=20.0)
    loss, accuracy = figure.axes
    for part in ("train", "validation"):
        np.testing.assert_array_equal(lines(loss)[part].get_xdata(), steps)
        np.testing.assert_array_equal(lines(loss)[part].get_ydata(), metrics[f"{part}/loss"])
    styles = {lines(loss)[part].get_linestyle() for part in ("train", "validation")}
    assert len(styles) == 2
    np.testing.assert_array_equal(
        lines(accuracy)["validation"].get_ydata(), metrics["validation/accuracy"]
    )
    assert [20, 20] in [list(line.get_xdata()) for line in loss.get_lines()]
    assert loss.get_yscale() == "log"
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == ("epoch", "accuracy")


def test_loss_curve_alone_has_one_panel():
    figure = figures.loss_curves(STEPS, {"train/loss": 1 / STEPS}, loss_label="loss (nats)")
    (axes,) = figure.axes
    assert axes.get_yscale() == "linear"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats)")


# --- decision boundary -------------------------------------------------------------------------

XOR = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def test_boundary_of_two_classes_lies_where_the_probability_is_a_half():
    def scores(x):
        second = 1 / (1 + np.exp(-8 * (x[:, 0] - 0.3)))
        return np.stack([1 - second, second], axis=1)

    figure = figures.decision_boundary(scores, XOR, np.array([0, 0, 1, 1]), ("no", "yes"))
    axes, color_bar = figure.axes
    (boundary,) = [c for c in axes.collections if getattr(c, "levels", [None])[0] == 0.5]
    vertices = np.concatenate([path.vertices for path in boundary.get_paths()])
    np.testing.assert_allclose(vertices[:, 0], 0.3, atol=1e-3)
    assert color_bar.get_ylabel() == "probability of class yes"
    points = [c for c in axes.collections if isinstance(c, PathCollection)]
    np.testing.assert_array_equal(points[0].get_offsets(), XOR[:2])
    np.testing.assert_array_equal(points[1].get_offsets(), XOR[2:])
    shapes = [p.get_paths()[0].vertices for p in points]
    assert not np.array_equal(shapes[0], shapes[1])  # different markers


def test_regions_of_three_classes():
    def scores(x):
        return np.stack([x[:, 0], x[:, 1], -x.sum(axis=1)], axis=1)

    labels = np.array([2, 1, 0, 0])
    names = ("a", "b", "c")
    figure = figures.decision_boundary(scores, XOR - 0.5, labels, names, ("left", "right"))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(names)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("left", "right")


# --- the others --------------------------------------------------------------------------------


def test_confusion_matrix_counts_true_classes_by_row():
    labels, predictions = np.array([0, 0, 0, 1, 2]), np.array([0, 2, 2, 1, 2])
    figure = figures.confusion_matrix(labels, predictions, ("a", "b", "c"))
    axes = figure.axes[0]
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "1", (2, 0): "2", (1, 1): "1", (2, 2): "1"}
    assert axes.get_title() == "3 of 5 right (60.0%)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    np.testing.assert_allclose(axes.images[0].get_array()[0], [1 / 3, 0, 2 / 3])


def test_regression_fit_draws_the_prediction():
    x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [2.0], [2.0]])
    figure = figures.regression_fit(lambda x: 3 * x, x, y, "hours", "marks")
    (axes,) = figure.axes
    line = lines(axes)["network"]
    np.testing.assert_allclose(line.get_ydata(), 3 * line.get_xdata())
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.hstack([x, y]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("hours", "marks")


def test_predicted_against_target_states_r2():
    targets = np.array([1.0, 2.0, 3.0, 4.0])
    figure = figures.predicted_against_target(targets, targets + 0.5, "price")
    (axes,) = figure.axes
    assert axes.get_title() == "R² = 0.800, root mean squared error 0.5"
    np.testing.assert_array_equal(
        axes.collections[0].get_offsets(), np.stack([targets, targets + 0.5], axis=1)
    )


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.loss_curves(STEPS, {"train/loss": 1 / STEPS, "train/r2": 1 - 1 / STEPS}),
        lambda: figures.decision_boundary(lambda x: x, XOR, np.array([0, 1, 1, 0]), ("0", "1")),
        lambda: figures.confusion_matrix(
            np.arange(30), np.arange(30), tuple(f"class {k}" for k in range(30))
        ),
        lambda: figures.regression_fit(lambda x: x, XOR[:, :1], XOR[:, 1:]),
        lambda: figures.predicted_against_target(XOR[:, 0], XOR[:, 1] + 0.1),
    ],
)
def test_pictures_are_about_800_pixels_wide_and_leave_the_readers_style_alone(draw):
    before = dict(matplotlib.rcParams)
    assert 700 <= png_width(draw()) <= 800
    assert dict(matplotlib.rcParams) == before


# --- names, and what fails ---------------------------------------------------------------------


def test_a_name_is_no_markup():
    names = ("$0_to_$10", "_yes", "a_{b}^c")
    labels = np.array([0, 1, 2])
    legend = figures.decision_boundary(
        lambda x: np.stack([x[:, 0], x[:, 1], -x.sum(axis=1)], axis=1), XOR[:3], labels, names
    ).axes[0].get_legend()  # fmt: skip
    assert [drawn(text) for text in legend.get_texts()] == ["$0_to_$10", " _yes", "a_{b}^c"]
    axes = figures.confusion_matrix(labels, labels, names).axes[0]
    assert [drawn(text) for text in axes.get_xticklabels()] == ["$0_to_$10", " _yes", "a_{b}^c"]
    axes = figures.regression_fit(lambda x: x[:, 0], STEPS[:, None], STEPS, "$x$", "$y$").axes[0]
    assert (drawn(axes.xaxis.label), drawn(axes.yaxis.label)) == ("$x$", "$y$")


def drawn(text):
    """What is drawn of a text, which is no mathematics."""
    shown, is_math = text._preprocess_math(text.get_text())
    assert not is_math
    return shown


def test_letters_that_no_font_has_are_drawn_without_a_word(capfd):
    names, labels = ("\U0001f984", "\U00013000"), np.array([0, 1])
    said = []
    picture = figures.to_png(
        "matrix", lambda: figures.confusion_matrix(labels, labels, names), said.append
    )
    assert picture.startswith(b"\x89PNG")
    assert said == []
    assert capfd.readouterr() == ("", "")
