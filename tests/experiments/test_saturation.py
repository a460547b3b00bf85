"""Squared error behind a sigmoid learns slowly where it is badly wrong; cross-entropy does not."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import saturation
from mlp_jax.core.training import Part


@pytest.mark.parametrize(
    ("loss_name", "start", "y_hat"),
    [
        ("squared error", (0.6, 0.9), 0.0939557),
        ("squared error", (2.0, 2.0), 0.2028484),
        ("cross-entropy", (0.6, 0.9), 0.0116382),
        ("cross-entropy", (2.0, 2.0), 0.0120087),
    ],
)
def test_one_neuron_to_the_lecture_s_digits(loss_name, start, y_hat):
    losses, measured = saturation.train_neuron(loss_name, start)
    assert measured == pytest.approx(y_hat, abs=5e-8)
    assert losses.shape == (300,)
    first = 1 / (1 + np.exp(-sum(start)))
    curve = saturation.output_of_loss(loss_name, np.asarray(losses))
    assert curve[0] == pytest.approx(first, rel=1e-12)
    assert measured < curve[-1] < measured * 1.02


def test_gradient_peaks_at_one_third_with_4_27():
    y_hat = jnp.linspace(0, 1, 3001)[1:-1]
    magnitude = saturation.gradient_magnitude("squared error", y_hat)
    assert float(y_hat[jnp.argmax(magnitude)]) == pytest.approx(1 / 3, abs=1e-12)
    assert float(jnp.max(magnitude)) == pytest.approx(4 / 27, rel=1e-12)


def test_ratio_of_the_gradients_at_one_percent():
    wrong = jnp.array([0.01])
    squared, entropy = (
        float(saturation.gradient_magnitude(name, wrong)[0]) for name in saturation.LOSS_NAMES
    )
    assert squared == pytest.approx(0.009801, rel=1e-12)
    assert entropy == pytest.approx(0.99, rel=1e-12)
    assert entropy / squared == pytest.approx(101.010101, rel=1e-8)


def test_steps_to_halve_counts_from_the_first_loss():
    losses = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 3.0, 0.0], [4.0, 3.0, 3.0, 3.0]])
    assert saturation.steps_to_halve(losses).tolist() == [2, 1, 4]


@pytest.fixture(scope="module")
def badly_started():
    """Losses and error rates of four seeds over 60 steps on a few digits, for each loss."""
    x, y = saturation.digits()
    few = Part(x[:320], y[:320])
    return {
        name: saturation.train_networks(name, 6.0, few, num_seeds=4, num_steps=60)
        for name in saturation.LOSS_NAMES
    }


def test_badly_started_network_stays_stuck_with_squared_error_only(badly_started):
    steps = {}
    for name, (losses, error_rates) in badly_started.items():
        assert losses.shape == (4, 60)
        assert np.all((error_rates >= 0) & (error_rates <= 1))
        steps[name] = saturation.steps_to_halve(losses)
    assert steps["cross-entropy"].max() <= 3
    assert steps["squared error"].min() >= 15


def test_one_output_alone_predicts_the_steps_of_the_network(badly_started):
    """By hand for cross-entropy: 6 − (1 + 30/4)(σ(6) − .1) = −1.63, from a loss of 5.4 to .34."""
    losses = saturation.predicted_losses("cross-entropy", 6.0, 2)
    np.testing.assert_allclose(losses, [[5.40248, 0.34199]], rtol=1e-4)
    for name, (measured, _) in badly_started.items():
        predicted = saturation.steps_to_halve(saturation.predicted_losses(name, 6.0, 60))[0]
        assert np.median(saturation.steps_to_halve(measured)) == pytest.approx(predicted, rel=0.4)


@pytest.mark.parametrize(("bias", "ratio"), [(0.0, 4.0), (6.0, 405.4)])
def test_the_losses_gradients_differ_by_one_over_y_hat_1_minus_y_hat(bias, ratio):
    measured = saturation.gradient_ratios(bias, saturation.digits(), num_seeds=16)
    assert np.median(measured) == pytest.approx(ratio, rel=0.25)


def test_both_losses_start_equally_wrong(badly_started):
    """Every output starts at ŷ ≈ 1, so nine of ten are wrong: ½ · 9 and 9 softplus(6)."""
    for name, expected in (("squared error", 4.5), ("cross-entropy", 9 * np.log1p(np.exp(6)))):
        np.testing.assert_allclose(badly_started[name][0][:, 0], expected, rtol=0.1)
