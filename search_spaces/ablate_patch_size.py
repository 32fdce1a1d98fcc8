"""Which patch: 96x96x96 or 128x128x64?

Hypothesis: larger patches improve the segmentation of the whole tumour.
Decides on: WT Dice, 128x128x64 against 96x96x96 at the same number of optimizer steps; margin 0.5
Dice points.
Second: the same where both see as many voxels, which gives the smaller patch 19 % more steps.
Third: whether 128x128x64 still gains on a patch of its volume that is nearly a cube, or on the flat
patch that lies inside both.
Held fixed: the centres of the patches (a pure function of seed, epoch and index) and the overlap of
inference windows in voxels.
In the demo, whose heads have 64x64x48 voxels, every side is halved. The arms are named by their
patch.
"""

from collections.abc import Iterable
from math import prod

from segmamba.config import Config
from segmamba.studies import Hypothesis, StudySpec, Times

FLAT, CUBE, NESTED = (128, 128, 64), (96, 96, 96), (96, 96, 64)
# By scale: the nearest patch to FLAT's volume (-2 %, +12 %) whose sides are multiples of 16.
MATCHED = {1: (112, 96, 96), 2: (64, 48, 48)}
OVERLAP_VOXELS = 32


def _name(patch: Iterable[int]) -> str:
    return "x".join(map(str, patch))


def STUDY(base: Config) -> StudySpec:
    """The study for a preset.

    Args:
        base: The preset's configuration.

    Returns:
        The study.
    """
    scale = 1 if base.data.spacing_mm < 2 else 2  # the demo has a grid of 3 mm
    flat, cube, nested = (tuple(side // scale for side in patch) for patch in (FLAT, CUBE, NESTED))
    matched = MATCHED[scale]
    fixed = {"inference.overlap_voxels": OVERLAP_VOXELS // scale}
    as_many_voxels = f"{_name(cube)}, as many voxels"
    return StudySpec(
        name="ablate_patch_size",
        question=f"Which patch: {_name(cube)} or {_name(flat)}?",
        hypothesis=Hypothesis(
            claim="Larger patches improve the segmentation of the whole tumour, at the same number "
            "of optimizer steps.",
            region="WT",
            better=_name(flat),
            than=_name(cube),
        ),
        secondary=(
            Hypothesis(
                claim="They do so where both see as many voxels, too.",
                region="WT",
                better=_name(flat),
                than=as_many_voxels,
            ),
            Hypothesis(
                claim="It is the shape, or the field of view, that does it.",
                region="WT",
                contrasts=((_name(flat), _name(matched)), (_name(flat), _name(nested))),
            ),
        ),
        baseline=_name(flat),
        arms={
            _name(flat): fixed | {"data.patch_size": flat},
            _name(cube): fixed | {"data.patch_size": cube},
            as_many_voxels: fixed
            | {"data.patch_size": cube, "train.steps_per_epoch": Times(prod(flat) / prod(cube))},
            _name(matched): fixed | {"data.patch_size": matched},
            _name(nested): fixed | {"data.patch_size": nested},
        },
        demo_arms=(_name(flat), _name(cube), as_many_voxels),
        notes=()
        if scale == 1
        else (
            "demo: every side of a patch is halved; 64x64x32 stands for 128x128x64, "
            "48x48x48 for 96x96x96",
        ),
    )
