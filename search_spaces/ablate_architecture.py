"""Which changes to the network are worth having?

Hypothesis: deep supervision, attention gates or another scan order improve mean Dice.
Decides on: mean Dice, each change against the network as it is; margin 0.5 Dice points, Holm over
all of them.
Second: the normalisation at two batch sizes. Batch norm at batch 2 is the paper preset's choice,
instance norm is the field's. Where the batch is doubled the number of steps stays, so those two
arms see twice as many patches and are compared with each other alone.
"""

from segmamba.studies import Hypothesis, StudySpec, Times
from segmamba.studies.spec import Changes

CHANGES: dict[str, Changes] = {
    "deep supervision": {"model.deep_supervision": 2},
    "attention gates": {"model.attention_gates": True},
    "bidirectional scan": {"model.scan_order": "bidirectional"},
    "three-way scan": {"model.scan_order": "tri"},
    "scan along z last": {"model.scan_axes": "wdh"},
}
DOUBLED: Changes = {"train.batch_size": Times(2)}

STUDY = StudySpec(
    name="ablate_architecture",
    question="Which changes to the network are worth having?",
    hypothesis=Hypothesis(
        claim="Deep supervision, attention gates or another scan order improve the network.",
        contrasts=tuple((change, "default") for change in CHANGES),
    ),
    secondary=(
        Hypothesis(
            claim="Instance norm is better than batch norm.",
            contrasts=(
                ("instance norm", "default"),
                ("instance norm, batch x2", "batch norm, batch x2"),
            ),
        ),
    ),
    baseline="default",
    arms={
        "default": {},
        **CHANGES,
        "instance norm": {"model.norm": "instance"},
        "batch norm, batch x2": DOUBLED,
        "instance norm, batch x2": DOUBLED | {"model.norm": "instance"},
    },
    demo_arms=(
        "default",
        "deep supervision",
        "attention gates",
        "bidirectional scan",
        "instance norm",
    ),
)
