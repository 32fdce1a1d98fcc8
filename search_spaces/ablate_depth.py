"""How deep should the Mamba stages be?

Hypothesis: deeper Mamba blocks improve long-range modelling, so whole-tumour Dice rises with depth.
Decides on: WT Dice, each depth against its control, a network without Mamba blocks that has the
same number of parameters within 2 %; margin 0.5 Dice points, Holm over all of them.
Second: the trend from depth 0 to depth 4.
Cost: 13 arms, three seeds and as many more as their claims need, at most ten.

The demo cannot answer this: its networks train for 120 steps, and two seeds of one arm then differ
by six points, more than depth could explain. It decides a positive control instead, an effect that
is known to be there: a network that trains for a quarter of the steps is worse. Depth 0 runs beside
it, as an example of what remains undecided.
"""

from segmamba.studies import Budget, Hypothesis, StudySpec, Trend

# Numbers of Mamba blocks in stage 3, stage 4 and the bottleneck.
DEPTHS = {"1": (1, 1, 1), "2": (2, 2, 2), "4": (4, 4, 4)}
STAGES = {"stage 3 only": (2, 0, 0), "stage 4 only": (0, 2, 0), "bottleneck only": (0, 0, 2)}
DEPTH_0 = {"model.mamba_depths": (0, 0, 0)}

DEMO = StudySpec(
    name="ablate_depth",
    question="Does a network need all of its training? (the demo's question; --arms all asks for "
    "the depth of the Mamba stages)",
    hypothesis=Hypothesis(
        claim="Training for all steps raises the mean Dice above that of a quarter of them.",
        region="mean",
        contrasts=(("depth 2", "a quarter of the steps"),),
    ),
    secondary=(
        Hypothesis(
            claim="Mamba blocks raise whole-tumour Dice.",
            region="WT",
            contrasts=(("depth 2", "depth 0"),),
        ),
    ),
    baseline="depth 2",
    arms={
        "depth 2": {"model.mamba_depths": DEPTHS["2"]},
        "a quarter of the steps": {"train.steps_per_epoch": 5},
        "depth 0": DEPTH_0,
    },
    budget=Budget(max_seeds=5),
    notes=(
        "the demo decides a positive control, since minutes of training cannot decide depth; "
        "--arms all compares the 13 arms of the study",
    ),
)

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
        "depth 0": DEPTH_0,
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
    demo=DEMO,
)
