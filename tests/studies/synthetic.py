"""Studies with known effects, made without training anything."""

import numpy as np

from segmamba.studies.results import Hypothesis, Study, Trial

DICE = {"ET": 0.78, "TC": 0.82, "WT": 0.88}


def synthetic_study(
    effects=None,
    *,
    seeds=5,
    cases=40,
    seed_sd=0.003,
    case_sd=0.02,
    rest_sd=0.02,
    margin=0.005,
    failed=(),
    phantom=False,
    test_is_validation=False,
    better=None,
    than=None,
    baseline=None,
    region="WT",
    draw_seed=0,
    epochs=20,
):
    """A Study whose arms score `effects` (Dice, arm name to gain) above DICE; `failed`: (arm, seed) pairs that crashed.

    seed_sd: of one run's Dice; case_sd, rest_sd: of one arm's taste for a patient, and of what is left. All in Dice.
    """
    effects = effects or {"depth 0": 0.0, "depth 1": 0.01, "depth 2": 0.02, "depth 4": 0.03}
    rng, names = np.random.default_rng(draw_seed), [f"BraTS-GLI-{i:05d}-000" for i in range(cases)]
    patient = rng.normal(0, 0.04, cases)
    trials = []
    for number, (arm, gain) in enumerate(effects.items()):
        taste = rng.normal(0, case_sd, cases)
        for seed in range(seeds):
            dice = {
                r: level
                + gain
                + patient
                + taste
                + rng.normal(0, seed_sd)
                + rng.normal(0, rest_sd, cases)
                for r, level in DICE.items()
            }
            scores = {**dice, "mean": sum(dice.values()) / 3}
            rows = [
                {"case": name, **{f"dice_{r}": float(v[i]) for r, v in scores.items()}}
                for i, name in enumerate(names)
            ]
            trials.append(
                _trial(rng, arm, number, seed, scores, rows, epochs, (arm, seed) in failed)
            )
    return Study(
        name="ablate_depth_Run01",
        question="How deep should the Mamba stages be?",
        hypothesis=Hypothesis(
            claim="Deeper Mamba blocks improve long-range modelling, so WT Dice rises with depth.",
            region=region,
            better=better or list(effects)[-1],
            than=than or next(iter(effects)),
            margin=margin,
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
        data={
            "source": "phantom" if phantom else "data/brats2023",
            "phantom": phantom,
            "convention": "brats2023",
            "train": [f"train-{i}" for i in range(60)],
            "validation": ["BraTS-GLI-90000-000"],
            "test": names,
            "test_is_validation": test_is_validation,
            "notes": ["validation is capped at 20 cases"],
        },
        environment={"python": "3.11.9", "torch": "2.13.0", "cpu": "2 cores"},
        command="python experiments/ablate_depth.py",
        mlflow_uri="sqlite:///Results/mlflow.db",
        parent_run_id="0123456789abcdef0123456789abcdef",
        seconds=754.2,
        trials=tuple(trials),
    )


def _trial(rng, arm, number, seed, scores, rows, epochs, crashed):
    shape = 1 - np.exp(-np.arange(1, epochs + 1) / 6)
    history = {
        "val/dice_mean": [
            (e, float(scores["mean"].mean() * s + rng.normal(0, 0.006)))
            for e, s in enumerate(shape, 1)
        ],
        "train/loss": [
            (e, float(1.6 * np.exp(-e / 8) + 0.35 - 0.02 * number + rng.normal(0, 0.01)))
            for e in range(1, epochs + 1)
        ],
    }
    metrics = {f"test/dice_{region}": float(values.mean()) for region, values in scores.items()}
    metrics |= {
        "model/parameters": 1.2e6 + 2.1e5 * number,
        "time/train_total_s": 41.0 + 6 * number + rng.normal(0, 1),
    }
    if crashed:
        history, metrics, rows = (
            {name: points[: epochs // 3] for name, points in history.items()},
            {},
            [],
        )
    return Trial(
        run_id=f"{number:02d}{seed:02d}" + "a" * 28,
        arm=arm,
        seed=seed,
        status="FAILED" if crashed else "FINISHED",
        reason="the loss became nan in epoch 7 (optim.lr=0.003)" if crashed else "",
        folder=f"Results/ablate_depth_Run01/{arm.replace(' ', '_')}_seed{seed}",
        params={
            "seed": str(seed),
            "model.mamba_depths": f"({number}, {number}, {number})",
            "optim.lr": "0.003",
        },
        metrics=metrics,
        history=history,
        test_cases=rows,
    )
