"""Fault injection: what becomes of runs, sweeps and records when something fails."""
