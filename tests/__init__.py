"""The tests; a package, so that `tests.faults` can be run."""
