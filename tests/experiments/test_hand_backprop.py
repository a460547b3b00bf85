"""The worked example and the assignment of the lecture, to all digits."""

import math

import pytest

from experiments import hand_backprop
from mlp_jax.library.explain import explain


@pytest.fixture(scope="module")
def rows():
    return {row.quantity: row for row in hand_backprop.measure().rows}


def test_every_number_is_the_lecture_s(rows):
    for row in rows.values():
        if row.relation == "=":
            assert row.measured == pytest.approx(row.theory, rel=1e-14), row.quantity


@pytest.mark.parametrize("way", ["by hand", "by backprop", "by jax.grad"])
def test_gradients_of_the_worked_example(rows, way):
    assert rows[f"∂L/∂w²₁₁ {way}"].measured == pytest.approx(-0.2775, rel=1e-14)
    assert rows[f"∂L/∂w¹₁₁ {way}"].measured == pytest.approx(-125.874, rel=1e-14)
    assert rows[f"∂L/∂w¹₁₃ {way}"].measured == pytest.approx(-2.0979 * 5, rel=1e-14)


def test_updated_weights(rows):
    assert rows["w²₁₁ after the step"].measured == pytest.approx(12.002775, abs=1e-12)
    assert rows["w¹₁₁ after the step"].measured == pytest.approx(1.35874, abs=1e-12)


def test_several_paths_add_up_to_backprop_and_jax_grad():
    num_paths, deviation = hand_backprop.deviation_over_several_paths()
    # Layer 3, 2 and 1: neurons × (inputs + bias) × paths from the loss, of which softmax has 3.
    assert num_paths == 3 * 3 * 3 + 2 * 4 * (3 * 3) + 3 * 3 * (2 * 3 * 3)
    assert deviation <= 1e-15


def test_printed_as_the_lecture_prints_it():
    text = str(explain(hand_backprop.NETWORK, *hand_backprop.worked_example()))
    for line in (
        "ŷ₁ = 0.25",
        "= -0.2775    backprop: -0.2775",
        "∂L/∂w¹₁₁ = ∂L/∂ŷ₁ × ∂ŷ₁/∂z²₁ × ∂z²₁/∂a¹₁ × ∂a¹₁/∂z¹₁ × ∂z¹₁/∂w¹₁₁",
        "=   -4   ×  0.1875  ×     12    ×   0.2331  ×     60",
        "= -125.874    backprop: -125.874",
        "= -10.4895    backprop: -10.4895",
    ):
        assert line in text


def test_figure_shows_each_value_and_gradient():
    figure = hand_backprop.draw(hand_backprop.measure())
    texts = [text.get_text() for text in figure.axes[0].texts]
    for text in ("a¹₁\n0.37", "∂L/∂a¹₁\n-9", "∂L/∂w¹₁₁\n-125.874", "∂ŷ₁/∂z²₁\n× 0.1875"):
        assert text in texts
    assert f"L\n{math.log(4):.5g}" in texts
