"""Three small cases, split and cached for the tiny configuration."""

import pytest

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from tests.conftest import write_case
from tests.tiny import TINY


@pytest.fixture
def data(tmp_path):
    for number in range(3):
        case_id = f"BraTS20_Training_{number:03d}"
        write_case(tmp_path / "data", case_id, seed=number, shape=(32, 32, 24))
    cases = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", TINY.data)
    return split_cases(cases, TINY.data)


@pytest.fixture
def large_data(cases_folder, tmp_path):
    """The same of cases that hold a patch of 32x32x16 voxels without padding."""
    cases = prepare_cases(find_cases(cases_folder), tmp_path / "cache", TINY.data)
    return split_cases(cases, TINY.data)
