"""Which observer auto takes, and what it says of it."""

from __future__ import annotations

from qgraph.solve.choose import choose


def test_the_least_noise_wins() -> None:
    choice = choose({"minmax": -30.0, "kl": -38.0, "mse": -40.0})
    assert choice.observer == "mse"
    assert choice.reason == "mse -40.00 dB; kl -38.00; minmax -30.00"


def test_of_observers_that_come_as_close_as_predictions_are_the_first_in_order_wins() -> None:
    noise = {"minmax": -39.96, "percentile": -39.9, "mse": -40.0}
    assert choose(noise).observer == "minmax"
    assert choose(noise).reason == "minmax -39.96 dB (within 0.05 dB of mse -40.00); percentile -39.90"
    assert choose(dict(reversed(noise.items()))).observer == "mse"


def test_equal_noise_goes_to_the_first_without_a_word_about_ties() -> None:
    assert choose({"minmax": -140.0, "mse": -140.0}).observer == "minmax"
    assert choose({"kl": -12.5}).reason == "kl -12.50 dB"
