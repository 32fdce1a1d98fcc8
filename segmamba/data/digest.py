"""What tells one set of prepared cases from another, whenever and wherever they were prepared."""

import hashlib

import numpy as np

BLOCKS, BLOCK = 4, 2**14  # bytes at so many places of each array: reading every byte of a thousand cases would take minutes


def data_digest(split):
    """SHA-256 over the ids, the grids and samples of the values of a Split's cases, and over which set each is in."""
    sha256 = hashlib.sha256()
    for name in ("train", "minival", "judge"):
        for case in sorted(getattr(split, name), key=lambda c: c.id):
            sha256.update(f"{name} {case.id} {case.patient} {case.shape} {case.offset} {case.working_shape} {case.source_shape}".encode())
            for array in (case.image(), case.label()):
                flat = array.reshape(-1).view(np.uint8)
                for at in np.linspace(0, max(0, len(flat) - BLOCK), BLOCKS).astype(int):
                    sha256.update(flat[at : at + BLOCK].tobytes())
    return sha256.hexdigest()
