"""The digits reach what is published; MNIST, which tests don't have, is in the study's table."""

from experiments import published_results


def test_digits_are_as_good_as_published():
    accuracies = published_results.our_digits()
    assert len(accuracies) == 5
    assert accuracies.mean() >= 97
