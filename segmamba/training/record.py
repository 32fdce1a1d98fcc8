"""The record of what a run depends on beside its configuration: environment.json.

It is written into the run's folder when the run begins, and added to where the environment has
changed when the run goes on.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import TypedDict

from segmamba.data.splits import SETS, Split
from segmamba.environment import all_packages, describe_environment, git_diff
from segmamba.files import write_json
from segmamba.json_files import read_json
from segmamba.training.run_folder import GO_ON, RunFolder

BLOCKS = 4
BLOCK_BYTES = 2**14
"""The data's digest takes BLOCKS blocks of BLOCK_BYTES from each array. Reading every byte of a
thousand cases would take minutes."""


class Resumed(TypedDict):
    """What has changed where a run went on."""

    after_epoch: int
    environment: dict[str, str]
    git_diff: str


class EnvironmentJson(TypedDict):
    """What is read of an environment.json."""

    environment: dict[str, str]
    resumed: list[Resumed]
    data_sha256: str
    split: dict[str, list[str]]


def read_environment(path: Path) -> dict[str, Any]:
    """Read an environment.json.

    Args:
        path: `RunFolder.environment`, or a copy of it.

    Returns:
        Its content, whole.

    Raises:
        UserError: It is missing or damaged.
    """
    read_json(path, EnvironmentJson, fix=GO_ON)
    return read_json(path, dict[str, Any], fix=GO_ON)


def record_environment(
    folder: RunFolder, data: Split, device: torch.device, epoch: int
) -> dict[str, Any]:
    """Write environment.json of a run, or add to it what has changed.

    Args:
        folder: The run's folder.
        data: A Split of PreparedCases.
        device: Where the run trains.
        epoch: How many epochs it has trained.

    Returns:
        The content of environment.json.
    """
    now = describe_environment() | {"device": str(device), "threads": str(torch.get_num_threads())}
    if folder.environment.exists():
        record = read_environment(folder.environment)
        resumed = record["resumed"]
        before = resumed[-1]["environment"] if resumed else record["environment"]
        if now != before:
            resumed.append({"after_epoch": epoch, "environment": now, "git_diff": git_diff()})
            write_json(folder.environment, record)
        return record
    record = {
        "environment": now,
        "git_diff": git_diff(),
        "packages": all_packages(),
        "data_sha256": data_digest(data),
        "split": {
            name: [case.id for case in getattr(data, name)] for name in (*SETS, "unlabelled")
        },
        "test_is_validation": data.test_is_validation,
        "resumed": [],
    }
    write_json(folder.environment, record)
    return record


def data_digest(split: Split) -> str:
    """Return the SHA-256 of a split's labelled cases.

    It covers their ids, their grids, samples of their values, and which set each case is in.

    Args:
        split: A Split of PreparedCases.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for name in SETS:
        for case in sorted(getattr(split, name), key=lambda c: c.id):
            sha256.update(
                f"{name} {case.id} {case.patient} {case.shape} {case.offset} "
                f"{case.working_shape} {case.source_shape}".encode()
            )
            for array in (case.image(), case.label()):
                flat = array.reshape(-1).view(np.uint8)
                for at in np.linspace(0, max(0, len(flat) - BLOCK_BYTES), BLOCKS).astype(int):
                    sha256.update(flat[at : at + BLOCK_BYTES].tobytes())
    return sha256.hexdigest()
