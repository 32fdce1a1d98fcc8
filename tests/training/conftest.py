"""Three real cases, split and cached for the tiny configuration."""

import pytest

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from tests.tiny import TINY


@pytest.fixture
def data(cases_folder, tmp_path):
    return split_cases(
        prepare_cases(find_cases(cases_folder), tmp_path / "cache", TINY.data), TINY.data
    )
