"""The numbers on which every statistical statement of the project rests."""

CONFIDENCE_LEVEL = 0.95
"""Coverage of every confidence interval, as a share; a test's level is 1 minus this."""

DICE_MARGIN = 0.005
"""Smallest difference in Dice (0 to 1) that matters: half a Dice point. NSD has the same."""

HD95_MARGIN_MM = 1.0
"""Smallest difference in HD95 that matters: a voxel of BraTS's grid."""
