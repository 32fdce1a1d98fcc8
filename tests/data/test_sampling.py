from dataclasses import dataclass

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmamba.config import DataConfig, preset
from segmamba.data import loader
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.sampling import draw, draw_anywhere, patch_slices
from tests.conftest import BRATS_AFFINE, write_case
