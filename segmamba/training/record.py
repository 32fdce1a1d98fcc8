"""What a run depends on beside its configuration, written into its folder when it begins and where that changes."""

import hashlib
import json

import numpy as np

from segmamba.environment import all_packages, describe_environment, git_diff
from segmamba.files import write_json

BLOCKS, BLOCK = (
    4,
    2**14,
)  # bytes at so many places of each array: reading every byte of a thousand cases would take minutes


def record_environment(folder, data, device, epoch):
    """Write environment.json of a RunFolder, or add to it what has changed where the run goes on after `epoch` epochs; returns what is so now."""
    import torch

    now = describe_environment() | {"device": str(device), "threads": str(torch.get_num_threads())}
    if folder.environment.exists():
        told = json.loads(folder.environment.read_text())
        before = told["resumed"][-1]["environment"] if told["resumed"] else told["environment"]
        if now != before:
            told["resumed"].append(
                {"after_epoch": epoch, "environment": now, "git_diff": git_diff()}
            )
            write_json(folder.environment, told)
        return told
    told = {
        "environment": now,
        "git_diff": git_diff(),
        "packages": all_packages(),
        "data_sha256": data_digest(data),
        "split": {
            name: [case.id for case in getattr(data, name)]
            for name in ("train", "validation", "test", "unlabelled")
        },
        "test_is_validation": data.test_is_validation,
        "resumed": [],
    }
    write_json(folder.environment, told)
    return told


def data_digest(split):
    """SHA-256 over the ids, the grids and samples of the values of a Split's cases, and over which set each is in."""
    sha256 = hashlib.sha256()
    for name in ("train", "validation", "test"):
        for case in sorted(getattr(split, name), key=lambda c: c.id):
            sha256.update(
                f"{name} {case.id} {case.patient} {case.shape} {case.offset} {case.working_shape} {case.source_shape}".encode()
            )
            for array in (case.image(), case.label()):
                flat = array.reshape(-1).view(np.uint8)
                for at in np.linspace(0, max(0, len(flat) - BLOCK), BLOCKS).astype(int):
                    sha256.update(flat[at : at + BLOCK].tobytes())
    return sha256.hexdigest()
