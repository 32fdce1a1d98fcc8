"""Does a scan mix the voxels better than a convolution or nothing, and along which path?

Hypothesis: sequence models help. Mamba and Mamba-2, and Mamba along each path, have a higher mean
Dice than a depthwise convolution of the same size and nearly the same cost.
Decides on: mean Dice, each scan against the convolution; margin 0.5 Dice points, Holm over all of
them.
Second: whether any mixing in the deep stages is better than none at the same size.
Third: whether a path whose successive voxels lie together is better than row by row.
The blocks of conv and none have the parameters of Mamba's within 2 %; Mamba-2 comes as near with
four times Mamba's states, at which its authors' begin. Convolutions around the blocks are the same.
"""

from segmamba.studies import Hypothesis, StudySpec, Times
from segmamba.studies.spec import Changes

PATHS: dict[str, Changes] = {
    "snake": {"model.scan_path": "snake"},
    "Morton": {"model.scan_path": "morton"},
    "Hilbert": {"model.scan_path": "hilbert"},
}
MIXERS: dict[str, Changes] = {
    "Mamba": {"model.mixer": "mamba"},
    "Mamba-2": {"model.mixer": "mamba2", "model.d_state": Times(4)},
}

STUDY = StudySpec(
    name="ablate_mixer",
    question="Does a scan mix the voxels better than a convolution or nothing, and along which "
    "path?",
    hypothesis=Hypothesis(
        claim="Scans are better than a depthwise convolution of the same size.",
        contrasts=tuple((arm, "conv") for arm in (*MIXERS, *PATHS)),
    ),
    secondary=(
        Hypothesis(
            claim="Mixing the voxels of the deep stages is better than not mixing them.",
            contrasts=tuple((arm, "none") for arm in (*MIXERS, "conv")),
        ),
        Hypothesis(
            claim="Another path is better than row by row.",
            contrasts=tuple((path, "Mamba") for path in PATHS),
        ),
    ),
    baseline="conv",
    arms={
        "conv": {"model.mixer": "conv"},
        "none": {"model.mixer": "none"},
        **MIXERS,
        **PATHS,
    },
    demo_arms=("conv", "none", *MIXERS, "Hilbert"),
)
