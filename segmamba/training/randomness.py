"""The generators that a run draws from, seeded, saved and set back. Patches and augmentation need none of them: see `data.sampling`."""

import os
import random

import numpy as np
import torch


def seed_everything(seed, deterministic):
    """Python, NumPy and torch (CPU and CUDA). Workers of the loader get seeds of their own that follow from `seed`."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # without it cuBLAS has no deterministic mode
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def random_state():
    """The state of all of them, as plain numbers and tensors."""
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state):
    """Go on where `random_state` was; a GPU that was not there then keeps its own state."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    for number, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one.cpu(), number)
