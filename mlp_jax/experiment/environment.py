"""What the bits of a run depend on besides its config: versions, the machine, the data."""

import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

PACKAGES = ("mlp_jax", "jax", "jaxlib", "optax", "numpy")


_GPU_FLAG = "--xla_gpu_deterministic_ops=true"


def describe(device: "jax.Device", data_digest: str) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": f"{device.device_kind} ({device.platform})",
        "cpu": _cpu(),
        "num_cores": num_cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "data": data_digest,
    }


def num_cores() -> int:
    """The threads that XLA computes with on the CPU: those of this process, or $NPROC."""
    given = os.environ.get("NPROC", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_jax() -> bool:
    """Whether JAX is imported, after which it may compute at any time."""
    return "jax" in sys.modules


def pin_cores(cores: int) -> None:
    """Makes XLA compute with so many threads, if it has not begun."""
    os.environ["NPROC"] = str(cores)


def fix_order(recorded_flags: str = _GPU_FLAG) -> None:
    """Makes XLA add in a fixed order on GPUs, if it has not begun.

    `recorded_flags`: only where they say that an earlier run did.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _GPU_FLAG in recorded_flags and _GPU_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_GPU_FLAG}".strip()


def _cpu() -> str:
    """Its model where the system tells, else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return model[1] if model else platform.machine()


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is no longer as it was, each as `jax 0.10.1 → 0.10.2`."""
    return [
        f"{name} {then.get(name)} → {now.get(name)}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
