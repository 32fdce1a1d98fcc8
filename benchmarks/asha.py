"""Does ASHA find the best arm, and what does it save?

    python benchmarks/asha.py [--repeats 20] [--json FILE]      # a minute on one core

The trainings are simulated, the schedulers are the real ones: Ray's ASHA with the times that a
search gives it, and our search over Optuna. A loop stands for Ray Tune's: WORKERS trials at once,
an epoch each in turn. An arm's validation Dice rises as level - drop * exp(-epoch / pace), plus the
noise of its seed and of each evaluation. Arms differ in level and in pace, so that the best arm is
not always the first to lead.

arms:   ARMS arms, the best GAP above the next, which learn at nearly the same pace.
paces:  the same arms, but the slowest takes 2.5 times the epochs of the fastest. ASHA cannot know
        that, which is why no ablation uses it unless asked.
search: our Optuna search over a learning rate and a weight decay, with a ridge around the best
        learning rate.

The arm with the best validation Dice at the end is returned. It counts as found where its true
level is within MARGIN of the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from figures import Figure, at_least, at_most, command_line, report
from segmamba.config import preset
from segmamba.orchestration.engine.launch import asha_times
from segmamba.orchestration.engine.search import METRIC, SpaceSearch
from segmamba.studies.search_space import Between

if TYPE_CHECKING:
    from ray.tune.schedulers import AsyncHyperBandScheduler

ARMS, WORKERS, EPOCHS = 27, 4, 30
GAP, MARGIN, SEED_SD, EVALUATION_SD = 0.02, 0.005, 0.005, 0.003  # Dice
SPACE = {
    "optim.lr": Between(1e-5, 1e-2, log=True),
    "optim.weight_decay": Between(1e-5, 1e-1, log=True),
}
BASELINE = {"optim.lr": 1e-4, "optim.weight_decay": 1e-2}
SEARCH_TRIALS = 40
PACES, FAR_APART = (2.4, 2.6), (2.0, 5.0)  # epochs
FOUND_GOAL, EPOCHS_GOAL = 90.0, 40.0  # %


class Training:
    """One simulated run."""

    def __init__(self, rng: np.random.Generator, level: float, pace: float) -> None:
        self.level = level
        self.final = level + rng.normal(0, SEED_SD)
        self.pace, self.rng, self.epoch = pace, rng, 0
        self.best = 0.0

    def step(self) -> dict[str, float]:
        """The result that a trial reports after an epoch."""
        self.epoch += 1
        result: dict[str, float] = {
            "epoch": self.epoch,
            "epochs": EPOCHS,
            "training_iteration": self.epoch,
        }
        if self.epoch % CONFIG.train.validate_every_epochs == 0 or self.epoch == EPOCHS:
            dice = (
                self.final
                - 0.5 * np.exp(-self.epoch / self.pace)
                + self.rng.normal(0, EVALUATION_SD)
            )
            self.best = max(self.best, float(dice))
        return result | ({METRIC: self.best} if self.best else {})


CONFIG = preset("quick").changed({"train.epochs": EPOCHS})


NextTraining = Callable[[], tuple[str, Training] | None]


def run(
    scheduler: AsyncHyperBandScheduler,
    next_training: NextTraining,
    search: SpaceSearch | None = None,
) -> tuple[Training, int]:
    """Run WORKERS trainings at once until `next_training` returns None.

    Returns:
        The best training by the validation set and the number of epochs spent.
    """
    from ray.tune.schedulers import TrialScheduler

    running, ended, epochs, more = [], [], 0, True
    while running or more:
        while more and len(running) < WORKERS:
            begun = next_training()
            more = begun is not None
            if more:
                trial = SimpleNamespace(
                    trial_id=begun[0], training=begun[1], last_result={}, config={}
                )
                scheduler.on_trial_add(None, trial)
                running.append(trial)
        for trial in list(running):
            result, epochs = trial.training.step(), epochs + 1
            if search:
                search.on_trial_result(trial.trial_id, result)
            stop = scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
            if stop or trial.training.epoch == EPOCHS:
                scheduler.on_trial_complete(None, trial, result)
                if search:
                    search.on_trial_complete(trial.trial_id, result)
                running.remove(trial)
                ended.append(trial.training)
    whole = [t for t in ended if t.epoch == EPOCHS]
    return max(whole, key=lambda t: t.best), epochs


def asha() -> AsyncHyperBandScheduler:
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(metric=METRIC, mode="max", **asha_times(CONFIG))


def arms_once(seed: int, paces: tuple[float, float] = PACES) -> tuple[float, float]:
    """The loss against the best arm in Dice, and the share of the epochs that was spent."""
    rng = np.random.default_rng(seed)
    levels = np.concatenate([[0.8], 0.8 - GAP - rng.exponential(0.02, ARMS - 1)])
    arms = [(f"{i}", Training(rng, level, rng.uniform(*paces))) for i, level in enumerate(levels)]
    waiting = [arms[i] for i in rng.permutation(ARMS)]
    best, epochs = run(asha(), lambda: waiting.pop() if waiting else None)
    return levels.max() - best.level, epochs / (ARMS * EPOCHS)


def level_of(changes: Mapping[str, float]) -> float:
    """The true Dice of settings: a ridge at lr 1e-3, a weak optimum of the weight decay."""
    off, decay = np.log10(changes["optim.lr"]) + 3, np.log10(changes["optim.weight_decay"]) + 2
    return 0.8 - 0.04 * off**2 - 0.002 * decay**2


def search_once(seed: int) -> tuple[float, float]:
    """The loss against the best setting in Dice, and the share of the epochs that was spent."""
    rng = np.random.default_rng(seed)
    search, begun = SpaceSearch(SPACE, BASELINE, seed=seed), []

    def next_training() -> tuple[str, Training] | None:
        if len(begun) == SEARCH_TRIALS:
            return None
        plan = search.suggest(f"{len(begun)}")["trial"]
        begun.append(plan)
        return f"{len(begun) - 1}", Training(rng, level_of(plan.changes), rng.uniform(*PACES))

    best, epochs = run(asha(), next_training, search)
    return 0.8 - best.level, epochs / (SEARCH_TRIALS * EPOCHS)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    began = time.perf_counter()
    figures: dict[str, Figure] = {}
    print(
        f"{'':8s} {'found, %':>9s} {'epochs, %':>10s} {'mean loss, points':>18s}"
        f"    ({options.repeats} repeats)"
    )
    for name, once in (
        ("arms", arms_once),
        ("paces", partial(arms_once, paces=FAR_APART)),
        ("search", search_once),
    ):
        losses, shares = np.array([once(seed) for seed in range(options.repeats)]).T
        found_percent = 100 * float(np.mean(losses <= MARGIN))
        epochs_percent = 100 * float(np.mean(shares))
        mean_loss = 100 * losses.mean()
        print(f"{name:8s} {found_percent:9.0f} {epochs_percent:10.1f} {mean_loss:18.2f}")
        if name == "paces":  # shown, and no goal
            continue
        figures[f"asha_{name}_found"] = at_least(found_percent, FOUND_GOAL, "%")
        figures[f"asha_{name}_epochs"] = at_most(epochs_percent, EPOCHS_GOAL, "%")
    report(figures, options.json)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
