"""The benchmark of searches over seeds."""

import numpy as np

from experiments.seeds import __main__ as seeds

SMALL = seeds.Size(trials=3, seeds=2, searches=2, fresh=2, repeats=0)


def test_a_search_takes_the_best_by_its_first_seed_and_by_the_mean():
    found = np.array([[[1.0, 9.0], [3.0, 4.0]], [[2.0, 2.0], [1.0, np.inf]]])
    by_one, by_mean = seeds.chosen(found)
    assert by_one.tolist() == [0, 1]
    assert by_mean.tolist() == [1, 0]


def test_searches_share_neither_seeds_nor_trials():
    first, second = (seeds.trials_of("xor", SMALL, number) for number in (0, 1))
    assert {one.seed for one in first} == {0}
    assert {one.seed for one in second} == {1_000}
    rates = [one.optimizer.learning_rate for one in (*first, *second)]
    assert len(set(rates)) == 6
    assert all(0.1 <= rate <= 100 for rate in rates)
