"""How does SegMamba compare with a U-Net, and with the field's networks?

Hypothesis: SegMamba (mean Dice 87 points) improves on the baseline U-Net (82), as the design
expects.
Decides on: mean Dice, SegMamba against the U-Net; margin 0.5 Dice points.
Second: whether any of the field's networks is better than SegMamba.
All arms train with the same patches, loss, schedule and augmentation, and each network is built as
its authors build it. The study does not compare pipelines. An arm whose package is missing
(pip install 'segmamba[peers]') stands in the table as infeasible.
"""

from segmamba.config import Config
from segmamba.studies import Hypothesis, StudySpec

PEERS = {
    "DynUNet (MONAI)": "dynunet",
    "SegResNet (MONAI)": "segresnet",
    "SwinUNETR (MONAI)": "swinunetr",
    "nnU-Net plain": "nnunet_plain",
    "nnU-Net ResEnc": "nnunet_resenc",
}


def STUDY(base: Config) -> StudySpec:
    """The study for a preset.

    Args:
        base: The preset's configuration.

    Returns:
        The study.
    """
    # The demo's patch has a side that the field's networks do not take.
    narrow = base.data.patch_size == (48, 48, 32)
    patch = {"data.patch_size": (64, 64, 32)} if narrow else {}
    return StudySpec(
        name="compare_baselines",
        question="How does SegMamba compare with a U-Net, and with the field's networks?",
        hypothesis=Hypothesis(
            claim="SegMamba improves on the baseline U-Net.", better="SegMamba", than="U-Net"
        ),
        secondary=(
            Hypothesis(
                claim="None of the field's networks is better than SegMamba.",
                direction="no better",
                contrasts=tuple((peer, "SegMamba") for peer in PEERS),
            ),
        ),
        baseline="SegMamba",
        arms={
            "SegMamba": patch,
            "U-Net": patch | {"model.name": "unet"},
            **{peer: patch | {"model.name": name} for peer, name in PEERS.items()},
        },
        demo_arms=("SegMamba", "U-Net", "DynUNet (MONAI)", "SegResNet (MONAI)", "nnU-Net plain"),
        notes=(
            "demo: patches of 64x64x32 voxels for all arms, since the field's networks need sides "
            "of 32",
        )
        if narrow
        else (),
    )
