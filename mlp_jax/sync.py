"""`python -m mlp_jax.sync`: see `--help`."""

from mlp_jax.commands.sync import main

if __name__ == "__main__":
    main()
