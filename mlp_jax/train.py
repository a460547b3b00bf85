"""`python -m mlp_jax.train`: see `--help`."""

from mlp_jax.commands.train import main

if __name__ == "__main__":
    main()
