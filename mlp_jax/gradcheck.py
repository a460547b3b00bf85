"""`python -m mlp_jax.gradcheck`: see `--help`."""

from mlp_jax.commands.gradcheck import main

if __name__ == "__main__":
    main()
