"""Are the field's Mamba networks worth more than a network without Mamba?

Hypothesis: sequence models help. Each of SegMamba (Xing et al. 2024), SegMamba-V2, U-Mamba_Bot and
U-Mamba_Enc (Ma et al. 2024), and this package's own network, has a higher mean Dice than the U-Net.
Decides on: mean Dice, each network against the U-Net; margin 0.5 Dice points, Holm over all five.
Second: whether Mamba helps at equal size, this package's network against its control.
Third: whether any of the field's Mamba networks is better than this package's.
All arms train with the same patches, loss, schedule and augmentation; U-Mamba's arms without the
deep supervision of its authors, which would be another loss. Each network has its own size, so that
the second claim alone is about Mamba and not about size.
"""

from segmamba.studies import Hypothesis, StudySpec
from segmamba.studies.spec import Changes

FIELD: dict[str, Changes] = {
    "SegMamba (Xing)": {"model.name": "segmamba_xing"},
    "SegMamba-V2": {"model.name": "segmamba_v2"},
    "U-Mamba Bot": {"model.name": "umamba_bot"},
    "U-Mamba Enc": {"model.name": "umamba_enc"},
}

STUDY = StudySpec(
    name="compare_mamba",
    question="Are the field's Mamba networks worth more than a network without Mamba?",
    hypothesis=Hypothesis(
        claim="Networks with Mamba are better than the U-Net.",
        contrasts=tuple((arm, "U-Net") for arm in ("SegMamba", *FIELD)),
    ),
    secondary=(
        Hypothesis(
            claim="At equal size, Mamba improves on convolutions.",
            better="SegMamba",
            than="control",
        ),
        Hypothesis(
            claim="None of the field's Mamba networks is better than this package's.",
            direction="no better",
            contrasts=tuple((arm, "SegMamba") for arm in FIELD),
        ),
    ),
    baseline="U-Net",
    arms={
        "U-Net": {"model.name": "unet"},
        "SegMamba": {"model.name": "segmamba"},
        "control": {"model.name": "control"},
        **FIELD,
    },
    # SegMamba-V2's 5x5x5 convolutions take a CPU as long as three of the others
    demo_arms=("U-Net", "SegMamba", "control", "SegMamba (Xing)", "U-Mamba Bot", "U-Mamba Enc"),
)
