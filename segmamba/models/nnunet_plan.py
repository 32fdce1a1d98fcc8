"""How nnU-Net plans U-Mamba for a patch: strides, channels and blocks of its stages."""

import math
from collections.abc import Sequence

from segmamba.errors import UserError

MAX_CHANNELS = 320
"""nnU-Net's cap for 3-D networks."""
SMALLEST_SIDE = 4
"""Voxels of the deepest level's sides: nnU-Net halves an axis while as many remain."""
BLOCKS = 2
"""Residual blocks of a stage, in encoder and decoder; in the deeper half of the stages U-Mamba has
one."""
PATCH = (128, 128, 64)
"""The patch that a network is planned for where no configuration of a run names one."""
Stride = tuple[int, int, int]


def planned_strides(patch: Sequence[int]) -> list[Stride]:
    """Plan the strides of the stages as nnU-Net does for voxels of equal sides.

    Args:
        patch: Voxels along the axes.

    Returns:
        The stride of each stage along each axis; the first is 1.

    Raises:
        UserError: The patch leaves one stage alone.
    """
    sides, strides = list(patch), [(1, 1, 1)]
    while True:
        halved = [axis for axis, side in enumerate(sides) if side >= 2 * SMALLEST_SIDE]
        # a single axis goes on only while it is clearly longer
        if not halved or (len(halved) == 1 and sides[halved[0]] < 3 * SMALLEST_SIDE):
            break
        x, y, z = (2 if axis in halved else 1 for axis in range(3))
        strides.append((x, y, z))
        sides = [math.ceil(n / stride) for n, stride in zip(sides, strides[-1], strict=True)]
    if len(strides) == 1:
        raise UserError(
            f"model.planned_for = {tuple(patch)}: nnU-Net plans no stage below the first; take a "
            f"patch with two sides of {2 * SMALLEST_SIDE} voxels or more"
        )
    return strides


class Plan:
    """U-Mamba for a patch: strides, channels, blocks and voxels of the stages.

    Args:
        patch: Voxels along the axes, in the order in which the network takes them.
        base_channels: Channels of the first stage.

    Raises:
        UserError: The patch leaves one stage alone.
    """

    def __init__(self, patch: Sequence[int], base_channels: int) -> None:
        self.strides = planned_strides(patch)
        stages = len(self.strides)
        self.widths = [min(base_channels * 2**s, MAX_CHANNELS) for s in range(stages)]
        self.blocks = [BLOCKS if s < math.ceil(stages / 2) else 1 for s in range(stages)]
        whole = math.ceil((stages - 1) / 2 + 0.5)
        self.decoder_blocks = [BLOCKS if s < whole else 1 for s in range(stages - 1)]
        self.total_stride = [math.prod(along) for along in zip(*self.strides, strict=True)]
        self.voxels, sides = [], list(patch)
        for stride in self.strides:
            sides = [side // step for side, step in zip(sides, stride, strict=True)]
            self.voxels.append(math.prod(sides))
