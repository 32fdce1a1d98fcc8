"""Three real cases, split and cached for the tiny configuration, and a run on them."""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import Split, split_cases
from segmamba.training.fit import Epoch, fit
from tests.conftest import write_case
from tests.tiny import CPU, TINY


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Split:
    """Three cases of 48x48x32 voxels at 1 mm. Tests share the files and must not change them."""
    folder = tmp_path_factory.mktemp("training")
    for number in range(3):
        write_case(folder / "data", f"BraTS20_Training_{number:03d}", seed=number)
    cases = prepare_cases(find_cases(folder / "data"), folder / "cache", TINY.data)
    return split_cases(cases, TINY.data)


@pytest.fixture(scope="session")
def whole_run(data) -> list[Epoch]:
    """The epochs of one undisturbed run of TINY, with checkpoints of their own."""
    return [
        dataclasses.replace(epoch, checkpoint=copy.deepcopy(epoch.checkpoint))
        for epoch in fit(TINY, data, CPU)
    ]


def copy_of(split: Split, folder: Path) -> Split:
    """A split whose files a test may change: its cases are copied into `folder`."""

    def copied(case):
        target = folder / case.folder.name
        if not target.exists():
            shutil.copytree(case.folder, target)
        return dataclasses.replace(case, folder=target)

    lists = {
        name: [copied(case) for case in getattr(split, name)]
        for name in ("train", "validation", "test", "unlabelled")
    }
    return dataclasses.replace(split, **lists)
