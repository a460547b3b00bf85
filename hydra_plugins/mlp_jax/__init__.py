"""The door through which Hydra finds the population launcher and the sweepers.

Every Hydra program in this environment imports these modules at its start: nothing heavy here.
Names that begin with `_` are imported when a sweep runs.
"""
