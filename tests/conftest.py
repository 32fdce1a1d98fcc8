"""Small real NIfTI cases, made anew for each test."""

import os
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from segmamba.orchestration.tracking import database
from segmamba.training.compiler_cache import VARIABLES
from tests import warm
from tests.pictures.browser import browser, opened

__all__ = ["browser", "opened"]  # fixtures: one browser for all tests

# On tiny tensors a second thread only waits, for minutes where the cores are busy.
torch.set_num_threads(1)

BRATS_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
OLD_NAMES = {"T1": "_t1", "T1ce": "_t1ce", "T2": "_t2", "FLAIR": "_flair", "label": "_seg"}
NEW_NAMES = {"T1": "-t1n", "T1ce": "-t1c", "T2": "-t2w", "FLAIR": "-t2f", "label": "-seg"}


@pytest.fixture(autouse=True)
def no_store_of_the_user(monkeypatch):
    """Remove what the environment, or an earlier test, says of MLflow: tests make own stores."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="session")
def warmed(tmp_path_factory):
    """Copy MLflow databases from one and fork spawned processes, as tests/warm.py does."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # shared by all workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_create", warm.copied_database(folder))
        patch.setenv(warm.DATABASES, str(folder))
        warm.warm_spawn(patch.setattr)
        yield
        drawing = sys.modules.get("segmamba.training.drawing")
        if drawing and drawing._process.cache_info().currsize:
            drawing._process().shutdown()
        warm.end()


def tumour_case(shape, seed, et_value=4):
    """Make (four images, labels) of a case: a noisy box brain with a nested box tumour."""
    rng = np.random.default_rng(seed)
    images = np.zeros((4, *shape), np.int16)
    brain = tuple(slice(2, n - 2) for n in shape)
    images[(slice(None), *brain)] = rng.integers(200, 400, (4, *(n - 4 for n in shape)))
    label = np.zeros(shape, np.uint8)
    for value, margin in ((2, 0), (et_value, 2), (1, 4)):
        low = [n // 2 - 6 + margin for n in shape]
        label[tuple(slice(at, at + 12 - 2 * margin) for at in low)] = value
    for channel, gain in enumerate((-60, 150, 120, 180)):
        images[channel][label > 0] += gain
    return images, label


def write_case(
    folder,
    case_id,
    *,
    shape=(48, 48, 32),
    seed=None,
    names=OLD_NAMES,
    et_value=4,
    ending=".nii.gz",
    affine=BRATS_AFFINE,
    label=True,
):
    """Write one case below `folder`; return the case's folder.

    The seed of its voxels is taken from its id: no two cases share an image.
    """
    seed = zlib.crc32(case_id.encode()) if seed is None else seed
    images, classes = tumour_case(shape, seed, et_value)
    target = Path(folder) / case_id
    target.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, list(names.values())[:4], strict=True):
        nibabel.save(nibabel.Nifti1Image(image, affine), target / f"{case_id}{name}{ending}")
    if label:
        nibabel.save(
            nibabel.Nifti1Image(classes, affine), target / f"{case_id}{names['label']}{ending}"
        )
    return target


@pytest.fixture
def cases_folder(tmp_path):
    """Three good cases in the 2018-2021 naming, 48x48x32 at 1 mm."""
    for number in range(3):
        write_case(tmp_path / "data", f"BraTS20_Training_{number:03d}", seed=number)
    return tmp_path / "data"


@pytest.fixture
def make_study():
    """Make a Study with known effects, without training anything."""
    from tests.studies.synthetic import synthetic_study

    return synthetic_study


@pytest.fixture(autouse=True)
def compilers_environment():
    """A run points the compiler at its own cache by variables of the process; tests do not."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if module := sys.modules.get("segmamba.training.compiler_cache"):
        module._in_use = None
