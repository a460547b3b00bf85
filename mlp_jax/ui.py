"""`python -m mlp_jax.ui`: see `--help`."""

from mlp_jax.commands.ui import main

if __name__ == "__main__":
    main()
