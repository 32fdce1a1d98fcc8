"""What `make evidence` asks of a data set, in its order.

Each part is one of the studies of experiments/ with the arms that answer its question first;
`--full` runs all arms of each. nnunet_folds.md is what benchmarks/nnunet_folds.py wrote.
"""

from segmamba.studies.evidence import MEMBERS, PHANTOMS_WEIGHTS, EvidencePart

PARTS = (
    EvidencePart(
        name="ablate_recipe",
        title="A recipe that is better than the paper's",
        arms=("paper's", "strong"),
    ),
    EvidencePart(
        name="nnunet_folds",
        title="Against nnU-Net's own trainer",
        kind="note",
    ),
    EvidencePart(
        name="ablate_depth",
        title="Depth, against controls of the same size",
        arms=("depth 2", "control 2", "depth 0", "depth 4", "control 4"),
    ),
    EvidencePart(name="ablate_patch_size", title="The patch"),
    EvidencePart(
        name="ablate_loss_weights",
        title="The weights of the loss",
        arms=("1:1", "3:1", "1:3"),
    ),
    EvidencePart(
        name="ablate_augmentation",
        title="Augmentation",
        arms=("all", "none", "all and the field's"),
    ),
    EvidencePart(
        name="compare_baselines",
        title="The field's networks",
        arms=("SegMamba", "U-Net", "nnU-Net plain", "nnU-Net ResEnc", "SwinUNETR (MONAI)"),
    ),
    EvidencePart(
        name="compare_mamba",
        title="The field's Mamba networks",
        arms=("U-Net", "SegMamba", "SegMamba (Xing)", "U-Mamba Enc"),
    ),
    EvidencePart(
        name="learning_curve",
        title="How many patients, and whether phantoms stand in for some",
        options=("--set", f"learning.initial_weights={PHANTOMS_WEIGHTS}"),
    ),
    EvidencePart(
        name="ensemble",
        title="An ensemble of five",
        kind="ensemble",
        options=("--members", "diverse"),
        picture="plots/gains.png",
    ),
    EvidencePart(
        name="ablate_inference",
        title="Options of inference",
        kind="inference",
        options=("--checkpoint", MEMBERS),
        picture="plots/differences.png",
    ),
)
