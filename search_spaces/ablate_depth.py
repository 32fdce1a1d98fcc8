"""How deep should the Mamba stages be?

Hypothesis: deeper Mamba blocks improve long-range modelling, so whole-tumour Dice rises with depth.
Decides on: WT Dice, each depth against its control, a network without Mamba blocks that has the
same number of parameters within 2 %; margin 0.5 Dice points, Holm over all of them.
Second: the trend from depth 0 to depth 4.
Cost: 13 arms. In the demo 4 arms x 2 seeds, 50 s a trial on one CPU core.
"""

from segmamba.studies import Budget, Hypothesis, StudySpec, Trend

# Numbers of Mamba blocks in stage 3, stage 4 and the bottleneck.
DEPTHS = {"1": (1, 1, 1), "2": (2, 2, 2), "4": (4, 4, 4)}
STAGES = {"stage 3 only": (2, 0, 0), "stage 4 only": (0, 2, 0), "bottleneck only": (0, 0, 2)}

STUDY = StudySpec(
    name="ablate_depth",
    question="How deep should the Mamba stages be?",
    hypothesis=Hypothesis(
        claim="Deeper Mamba blocks improve long-range modelling: they raise whole-tumour Dice by "
        "more than their parameters would.",
        region="WT",
        contrasts=(
            *((f"depth {d}", f"control {d}") for d in DEPTHS),
            *((stage, f"control {stage}") for stage in STAGES),
        ),
    ),
    secondary=(
        Hypothesis(
            claim="Whole-tumour Dice rises with depth.",
            region="WT",
            contrasts=(Trend({"depth 0": 0, "depth 1": 1, "depth 2": 2, "depth 4": 4}),),
        ),
    ),
    baseline="depth 2",
    arms={
        "depth 0": {"model.mamba_depths": (0, 0, 0)},
        **{f"depth {d}": {"model.mamba_depths": blocks} for d, blocks in DEPTHS.items()},
        **{
            f"control {d}": {"model.name": "control", "model.mamba_depths": blocks}
            for d, blocks in DEPTHS.items()
        },
        **{s: {"model.mamba_depths": blocks} for s, blocks in STAGES.items()},
        **{
            f"control {s}": {"model.name": "control", "model.mamba_depths": blocks}
            for s, blocks in STAGES.items()
        },
    },
    demo_arms=("depth 0", "depth 2", "control 2", "depth 4"),
    budget=Budget(seeds=2),
)
