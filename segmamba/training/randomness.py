"""The random generators of a process: seeded, saved and restored.

Patches and augmentation use none of them; see `segmamba.data.sampling`.
"""

import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seed Python, NumPy and torch, on the CPU and on GPUs.

    The loader's workers get seeds of their own that follow from `seed`.

    Args:
        seed: The run's seed.
        deterministic: Whether torch is restricted to deterministic algorithms where it has them.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # Without this variable cuBLAS has no deterministic mode.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def random_state() -> dict[str, Any]:
    """Return the state of all generators as plain numbers and tensors."""
    numpy_state = np.random.get_state()
    assert isinstance(numpy_state, tuple)
    name, keys, *rest = numpy_state
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned. A GPU that was not there then keeps its own state."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    for number, gpu_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(gpu_state.cpu(), number)
