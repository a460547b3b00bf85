"""`python -m mlp_jax`: the commands, and with `--version` which version this is."""

import argparse
from importlib.metadata import version

COMMANDS = """\
commands, each with --help:
  python -m mlp_jax.train      train a network, or many together (-m); resume and repeat runs
  python -m mlp_jax.gradcheck  compare the gradient with jax.grad, and train nothing
  python -m mlp_jax.report     compare the finished runs of an experiment
  python -m mlp_jax.ui         look at the runs in MLflow's pages
  python -m mlp_jax.sync       deliver what the store did not take
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mlp_jax",
        description="Feedforward neural networks from first principles in JAX.",
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlp_jax {version('mlp_jax')}")
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
