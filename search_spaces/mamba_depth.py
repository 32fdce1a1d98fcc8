"""How deep should the Mamba stages be?

Hypothesis: deeper Mamba blocks improve long-range modelling, so whole-tumour Dice rises with depth.
Decides on: judge/dice_WT, the deepest arm against no Mamba at all, margin 0.5 Dice points.
Cost: 4 arms; about 50 s a trial on one CPU core (demo).
"""

from segmamba.orchestration.spec import Hypothesis, StudySpec


def _depth(blocks):
    """`blocks` Mamba blocks in each of stage 3, stage 4 and the bottleneck."""
    return {"model.mamba_depths": (blocks, blocks, blocks)}


STUDY = StudySpec(
    name="ablate_depth",
    question="How deep should the Mamba stages be?",
    hypothesis=Hypothesis(
        claim="Deeper Mamba blocks improve long-range modelling: whole-tumour Dice rises with depth.",
        region="WT",
        better="depth 4",
        than="depth 0",
        margin=0.005,
    ),
    baseline="depth 2",
    arms={"depth 0": _depth(0), "depth 1": _depth(1), "depth 2": _depth(2), "depth 4": _depth(4)},
)
