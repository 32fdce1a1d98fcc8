"""Studies with known effects, made without training anything."""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from segmamba.studies.results import History, Hypothesis, Study, StudyData, Trial

DICE = {"ET": 0.78, "TC": 0.82, "WT": 0.88}


def synthetic_study(
    effects: dict[str, float] | None = None,
    *,
    seeds: int = 5,
    cases: int = 40,
    timepoints: int = 1,
    seed_sd: float = 0.003,
    case_sd: float = 0.02,
    rest_sd: float = 0.02,
    draw_seed: int = 0,
    epochs: int = 20,
    failed: Collection[tuple[str, int]] = (),
    phantom: bool = False,
    test_is_validation: bool = False,
    baseline: str | None = None,
    **hypothesis: Any,
) -> Study:
    """A Study whose arms score known amounts of Dice (0 to 1) above DICE.

    Args:
        effects: What each arm gains; None takes four depths.
        seeds: Seeds of each arm.
        cases: Test cases.
        timepoints: Cases of each patient; what an arm gains is the same in all of them.
        seed_sd: Standard deviation of one run's Dice.
        case_sd: Standard deviation, from patient to patient, of what an arm gains.
        rest_sd: Standard deviation of what is left.
        draw_seed: The seed of all draws.
        epochs: Epochs of the learning curves.
        failed: The (arm, seed) of trials that crashed.
        phantom: Whether it calls its data phantom data.
        test_is_validation: Whether its test set is its validation set.
        baseline: The arm that the others are compared with; None takes the first.
        **hypothesis: Fields of its Hypothesis: better, than, region, margin.

    Returns:
        The Study.
    """
    effects = effects or {"depth 0": 0.0, "depth 1": 0.01, "depth 2": 0.02, "depth 4": 0.03}
    rng = np.random.default_rng(draw_seed)
    names = [f"BraTS-GLI-{i // timepoints:05d}-{i % timepoints:03d}" for i in range(cases)]
    patient = rng.normal(0, 0.04, cases)
    trials = []
    for number, (arm, gain) in enumerate(effects.items()):
        taste = rng.normal(0, case_sd, cases)[np.arange(cases) // timepoints]
        for seed in range(seeds):
            dice = {
                region: level
                + gain
                + patient
                + taste
                + rng.normal(0, seed_sd)
                + rng.normal(0, rest_sd, cases)
                for region, level in DICE.items()
            }
            scores = {**dice, "mean": sum(dice.values()) / 3}
            trial = _trial(rng, arm, number, seed, scores, names, epochs)
            trials.append(_crashed(trial, epochs) if (arm, seed) in failed else trial)
    defaults = {
        "region": "WT",
        "better": list(effects)[-1],
        "than": next(iter(effects)),
        "margin": 0.005,
    }
    return Study(
        name="ablate_depth_Run01",
        question="How deep should the Mamba stages be?",
        hypothesis=Hypothesis(
            claim="Deeper Mamba blocks improve long-range modelling, so WT Dice rises with depth.",
            **defaults | hypothesis,
        ),
        baseline=baseline or next(iter(effects)),
        arms={arm: {"model.mamba_depths": (i, i, i)} for i, arm in enumerate(effects)},
        seeds=tuple(range(seeds)),
        preset="demo",
        config={
            "seed": 0,
            "model.mamba_depths": (2, 2, 2),
            "optim.lr": 3e-3,
            "train.epochs": epochs,
            "data.patch_size": (48, 48, 32),
        },
        data=StudyData(
            source="phantom" if phantom else "data/brats2023",
            phantom=phantom,
            convention="brats2023",
            train=tuple(f"train-{i}" for i in range(60)),
            validation=("BraTS-GLI-90000-000",),
            test=tuple(names),
            test_is_validation=test_is_validation,
            notes=("validation is capped at 20 cases",),
        ),
        environment={"python": "3.11.9", "torch": "2.13.0", "cpu": "2 cores"},
        command="python experiments/ablate_depth.py",
        mlflow_uri="sqlite:///Results/mlflow.db",
        parent_run_id="0123456789abcdef0123456789abcdef",
        seconds=754.2,
        trials=tuple(trials),
    )


def _trial(
    rng: np.random.Generator,
    arm: str,
    number: int,
    seed: int,
    scores: dict[str, np.ndarray],
    names: list[str],
    epochs: int,
) -> Trial:
    """A trial that finished; scores: for each region the Dice of every case."""
    shape = 1 - np.exp(-np.arange(1, epochs + 1) / 6)
    history: History = {
        "val/dice_mean": [
            (epoch, float(scores["mean"].mean() * s + rng.normal(0, 0.006)))
            for epoch, s in enumerate(shape, 1)
        ],
        "train/loss": [
            (
                epoch,
                float(1.6 * np.exp(-epoch / 8) + 0.35 - 0.02 * number + rng.normal(0, 0.01)),
            )
            for epoch in range(1, epochs + 1)
        ],
    }
    metrics = {f"test/dice_{region}": float(values.mean()) for region, values in scores.items()}
    metrics |= {
        "model/parameters": 1.2e6 + 2.1e5 * number,
        "time/train_total_s": 41.0 + 6 * number + rng.normal(0, 1),
    }
    return Trial(
        run_id=f"{number:02d}{seed:02d}" + "a" * 28,
        arm=arm,
        seed=seed,
        status="FINISHED",
        folder=f"Results/ablate_depth_Run01/{arm.replace(' ', '_')}_seed{seed}",
        params={
            "seed": str(seed),
            "model.mamba_depths": f"({number}, {number}, {number})",
            "optim.lr": "0.003",
        },
        metrics=metrics,
        history=history,
        test_cases=[
            {
                "case": name,
                "patient": name.rpartition("-")[0],
                **{f"dice_{region}": float(v[i]) for region, v in scores.items()},
            }
            for i, name in enumerate(names)
        ],
    )


def _crashed(trial: Trial, epochs: int) -> Trial:
    """The same trial, broken off after a third of its epochs."""
    return dataclasses.replace(
        trial,
        status="FAILED",
        reason="the loss became nan in epoch 7 (optim.lr=0.003)",
        metrics={},
        history={name: course[: epochs // 3] for name, course in trial.history.items()},
        test_cases=[],
    )
