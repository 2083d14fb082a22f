"""What counts as nearer to the wanted outputs: a gain that most draws of the samples show."""

from __future__ import annotations

import numpy as np
import pytest

from qgraph.improve.nearness import Powers, noise_of, powers_of, sure_gain_db


def powers(*errors: float) -> Powers:
    """Of samples with a signal of 1 at one output."""
    return Powers(np.ones((len(errors), 1)), np.array(errors).reshape(-1, 1))


def test_noise_is_the_geometric_mean_of_the_outputs_and_integers_do_not_count() -> None:
    wanted = [np.array([1.0, 1.0], "float32"), np.array([2.0], "float32"), np.array([7], "int64")]
    found = [np.array([1.1, 1.1], "float32"), np.array([4.0], "float32"), np.array([0], "int64")]
    assert noise_of([wanted], [found]) == pytest.approx(np.sqrt(0.01 * 1.0), rel=1e-4)
    assert noise_of([wanted], [wanted]) == pytest.approx(1e-10)


def test_a_silent_output_with_error_is_all_noise_and_a_model_without_float_outputs_too() -> None:
    silent = [np.zeros(3, "float32")]
    assert noise_of([silent], [[np.ones(3, "float32")]]) == 1.0
    assert noise_of([[np.array([1])]], [[np.array([2])]]) == 1.0


def test_values_that_are_not_finite_do_not_count() -> None:
    found = powers_of([[np.array([np.inf, 2.0])]], [[np.array([1.0, 1.0])]])
    assert found.signal.tolist() == [[4.0]]
    assert found.error.tolist() == [[1.0]]


def test_a_model_of_nan_is_farther_than_any_other() -> None:
    wanted = [[np.array([3.0, 4.0])]]
    broken = powers_of(wanted, [[np.array([np.nan, np.nan])]])
    assert broken.noise()[0] > powers_of(wanted, [[np.array([-1e5, 1e5])]]).noise()[0] > 1
    assert sure_gain_db(powers_of(wanted, [[np.array([0.0, 0.0])]]), broken) > 100


def test_a_gain_on_every_sample_counts_in_full() -> None:
    assert sure_gain_db(powers(1, 1, 1), powers(2, 2, 2)) == pytest.approx(10 * np.log10(2))


def test_a_gain_on_one_sample_of_many_is_luck() -> None:
    new, old = powers(*[1.0] * 16), powers(*[0.99] * 15, 6.0)
    assert old.noise() > 1.2 * new.noise()
    assert sure_gain_db(new, old) < 0.1


def test_draws_are_the_same_at_each_call() -> None:
    new, old = powers(1, 2, 3, 4), powers(4, 3, 2, 1)
    assert sure_gain_db(new, old) == sure_gain_db(new, old) < 0
