"""`python -m mlp_jax` lists the commands; `python -m mlp_jax train …`, or mlp-jax, runs one."""

import sys
from importlib import import_module

COMMANDS = {
    "train": "trains a network, or with -m a sweep of them, and records the runs",
    "gradcheck": "checks the gradient of an experiment, layer by layer, and trains nothing",
    "report": "compares the finished runs of an experiment",
    "sync": "sends to the store what it has not taken yet",
    "ui": "shows the runs in the browser",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        sys.argv[:2] = [f"{sys.argv[0]} {name}"]
        import_module(f"mlp_jax.commands.{name}").main()
    elif name == "--version":
        from mlp_jax.commands.frame import version

        print(version())
    elif name in ("", "-h", "--help"):
        lines = (f"    python -m mlp_jax.{name:10}  {what}" for name, what in COMMANDS.items())
        print("The commands of mlp_jax; --help tells more of each:", *lines, sep="\n")
    else:
        print(f"error: {name}: no such command; one of {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
