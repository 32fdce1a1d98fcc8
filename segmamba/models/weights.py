"""Reading what training wrote: plain tensors, numbers and strings, without running code."""

import pickle
import struct

import torch

from segmamba.errors import UserError

# What torch's reader raises on bytes that it did not write.
DAMAGED = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, pickle.UnpicklingError, struct.error)


def load_checkpoint(path, device="cpu"):
    """The state at `path`. UserError for a missing, truncated or foreign file."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except DAMAGED as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: damaged or not a checkpoint of this program ({reason})") from error
