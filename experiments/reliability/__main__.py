"""`python -m experiments.reliability` measures what becomes of a run under every fault."""

import sys

from experiments.reliability import processes

with processes.bench() as at:
    print(processes.kills(at, int(sys.argv[1]), 0))
