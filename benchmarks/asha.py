"""Does ASHA find the best arm, and what does it save?

python benchmarks/asha.py [--repeats 20] [--json FILE]      a minute on one core

Simulated trainings, the real schedulers: Ray's ASHA with the times that a search of ours gives it, and our search over Optuna, in a loop
that stands for Ray Tune's (WORKERS trials at once, an epoch each in turn). An arm's validation Dice rises as level - drop * exp(-epoch / pace)
plus the noise of its seed and of each evaluation; arms differ in level and in pace, so that the best is not always the first to lead.

arms:   ARMS arms, the best GAP above the next, which learn at nearly the same pace.
paces:  the same arms, but the slowest takes 2.5 times the epochs of the fastest: what ASHA cannot know, and why no ablation uses it unasked.
search: our Optuna search over a learning rate and a weight decay, with a ridge around the best learning rate.
Returned is the arm that the validation set likes best at the end. It counts as found where its true level is within MARGIN of the best.
"""

import argparse
import json
import os
import platform
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from segmamba.config import preset
from segmamba.orchestration.engine.launch import asha_times
from segmamba.orchestration.engine.search import METRIC, SpaceSearch
from segmamba.studies.search_space import Between

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

    def __init__(self, rng, level, pace):
        self.level, self.final, self.pace, self.rng, self.epoch = (
            level,
            level + rng.normal(0, SEED_SD),
            pace,
            rng,
            0,
        )
        self.best = 0.0

    def step(self):
        """The result that a trial of ours reports after an epoch."""
        self.epoch += 1
        result = {"epoch": self.epoch, "epochs": EPOCHS, "training_iteration": self.epoch}
        if self.epoch % CONFIG.train.validate_every_epochs == 0 or self.epoch == EPOCHS:
            dice = (
                self.final
                - 0.5 * np.exp(-self.epoch / self.pace)
                + self.rng.normal(0, EVALUATION_SD)
            )
            self.best = max(self.best, float(dice))
        return result | ({METRIC: self.best} if self.best else {})


CONFIG = preset("quick").changed({"train.epochs": EPOCHS})


def run(scheduler, next_training, search=None):
    """(best training by the validation set, epochs spent): WORKERS at once until `next_training()`, which gives (name, Training), gives None."""
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


def asha():
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(metric=METRIC, mode="max", **asha_times(CONFIG))


def arms_once(seed, paces=PACES):
    """(loss against the best arm in Dice, share of the epochs)."""
    rng = np.random.default_rng(seed)
    levels = np.concatenate([[0.8], 0.8 - GAP - rng.exponential(0.02, ARMS - 1)])
    arms = [(f"{i}", Training(rng, level, rng.uniform(*paces))) for i, level in enumerate(levels)]
    waiting = [arms[i] for i in rng.permutation(ARMS)]
    best, epochs = run(asha(), lambda: waiting.pop() if waiting else None)
    return levels.max() - best.level, epochs / (ARMS * EPOCHS)


def level_of(changes):
    """The true Dice of settings: a ridge at lr 1e-3, a weak optimum of the weight decay."""
    off, decay = np.log10(changes["optim.lr"]) + 3, np.log10(changes["optim.weight_decay"]) + 2
    return 0.8 - 0.04 * off**2 - 0.002 * decay**2


def search_once(seed):
    """(loss against the best setting in Dice, share of the epochs)."""
    rng = np.random.default_rng(seed)
    search, begun = SpaceSearch(SPACE, BASELINE, seed=seed), []

    def next_training():
        if len(begun) == SEARCH_TRIALS:
            return None
        plan = search.suggest(f"{len(begun)}")["trial"]
        begun.append(plan)
        return f"{len(begun) - 1}", Training(rng, level_of(plan.changes), rng.uniform(*PACES))

    best, epochs = run(asha(), next_training, search)
    return 0.8 - best.level, epochs / (SEARCH_TRIALS * EPOCHS)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    began, figures = time.perf_counter(), {}
    print(
        f"{'':8s} {'found, %':>9s} {'epochs, %':>10s} {'mean loss, points':>18s}    ({options.repeats} repeats)"
    )
    for name, once in (
        ("arms", arms_once),
        ("paces", partial(arms_once, paces=FAR_APART)),
        ("search", search_once),
    ):
        losses, shares = np.array([once(seed) for seed in range(options.repeats)]).T
        found, spent = 100 * float(np.mean(losses <= MARGIN)), 100 * float(np.mean(shares))
        print(f"{name:8s} {found:9.0f} {spent:10.1f} {100 * losses.mean():18.2f}")
        if name == "paces":  # shown, and no goal
            continue
        figures[f"asha_{name}_found"] = {
            "value": found,
            "unit": "%",
            "goal": f">= {FOUND_GOAL:g}",
            "holds": found >= FOUND_GOAL,
        }
        figures[f"asha_{name}_epochs"] = {
            "value": spent,
            "unit": "%",
            "goal": f"<= {EPOCHS_GOAL:g}",
            "holds": spent <= EPOCHS_GOAL,
        }
    print(
        f"goals: found >= {FOUND_GOAL:g} %, epochs <= {EPOCHS_GOAL:g} %; {time.perf_counter() - began:.0f} s"
    )
    if options.json:
        machine = {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        }
        options.json.write_text(
            json.dumps({"figures": figures, "machine": machine}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
