"""`python -m mlp_jax.report`: see `--help`."""

from mlp_jax.commands.report import main

if __name__ == "__main__":
    main()
