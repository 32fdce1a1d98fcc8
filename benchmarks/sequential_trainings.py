"""Do studies that add seeds hold what they promise where networks are really trained?

    python benchmarks/sequential_trainings.py [--json FILE]      # some minutes on two quiet cores

verdicts.py simulates the scores of its studies. Here every score comes from a network that the
product's loop trained on phantoms and tested on their test patients. The network is tiny and its
training lasts 60 steps, so that hundreds of them fit; it is far from a good one, and runs that
differ in their seed alone lie several Dice points apart. What follows is the product's own code
without Ray and MLflow: SeedQueue says which trial comes next, `take_look` looks at the rows of the
tested patients after 3 seeds and every further one, `verdict` ends the study.

Equal arms have the same settings. Arms of a study usually share their seeds; runs of equal arms
that share a seed would be the same run. Therefore no two runs of this script share a seed: each
differs from every other as two runs of different arms do, and studies that share a phantom data set
are independent given the data. An alarm is a study that calls one of two equal arms better, or
whose repeated interval lies on one side of 0.

The planted difference is a learning rate that is 30 times too small. How many seeds would a fixed
design need? Two answers are printed. Who does not know the effect before the study can but run all
N seeds that were planned, N = 10 here; the goal is half of it. Who knew the effect and the spreads,
as measured by these very studies, would plan for a power of 90 %; a sequential design cannot halve
that number, because it looks at 3 seeds first and pays for looking.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from figures import Figure, at_least, at_most, command_line, report
from segmamba.config import Config, preset
from segmamba.studies.contrasts import contrast_difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.looks import Look
from segmamba.studies.power import Spreads, power, spreads_of
from segmamba.studies.results import Study, Trial
from segmamba.studies.sequential import take_look
from segmamba.studies.trial_plan import TrialPlan
from segmamba.studies.verdict import verdict
from sequential_studies import bare_study

MAX_SEEDS, REGION = 10, "WT"
EQUAL_STUDIES, PLANTED_STUDIES, DATA_SETS = 20, 10, 10
MOST_ALARMS, KNOWN_POWER = 2, 0.90
SEEDS_A_STUDY = 100  # more than any study trains
TRAINING: dict[str, object] = {
    "phantom.cases": 20,
    "phantom.size": (48, 48, 48),
    "data.spacing_mm": 6.0,  # a head is about 24x28x23 voxels
    "data.patch_size": (16, 16, 16),
    "data.tumour_centre_share": 0.9,
    "data.validation_cases": 2,
    "data.validation_share": 0.1,
    "data.test_share": 0.5,
    "model.base_channels": 4,
    "model.mamba_depths": (0, 0, 0),
    "optim.lr": 1e-2,
    "train.batch_size": 2,
    "train.epochs": 2,
    "train.steps_per_epoch": 30,
    "train.validate_every_epochs": 1,
    "train.test_last": False,
}
EQUAL_ARMS: dict[str, dict[str, object]] = {"one": {}, "the same": {}}
PLANTED_ARMS: dict[str, dict[str, object]] = {
    "rate / 30": {"optim.lr": 1e-2 / 30},
    "rate": {},
}


@dataclass(frozen=True)
class Plan:
    """A study to run."""

    number: int
    """Decides the phantom data set and the seeds of its runs."""
    arms: dict[str, dict[str, object]]
    """The worse or first arm, then the one that is claimed to be better."""
    base: Config
    max_seeds: int = MAX_SEEDS

    @property
    def claim(self) -> Hypothesis:
        """That the second arm is better than the first."""
        than, better = self.arms
        return Hypothesis(
            claim=f"{better} is better than {than}.", better=better, than=than, region=REGION
        )

    def config(self, plan: TrialPlan) -> Config:
        """The configuration of a trial; no two trials of the script have the same seed."""
        place = list(self.arms).index(plan.arm)
        seed = SEEDS_A_STUDY * self.number + SEEDS_A_STUDY // 2 * place + plan.seed
        return self.base.changed(self.arms[plan.arm] | {"seed": seed})


def write_data_set(folder: Path, base: Config) -> None:
    """Write the phantom of a configuration into `folder` and prepare its cases there."""
    from segmamba.data.phantom import write_phantom

    phantom = base.phantom
    write_phantom(folder / "phantom", cases=phantom.cases, size=phantom.size, seed=phantom.seed)
    _prepared(folder, base)


def _prepared(folder: Path, base: Config) -> Any:
    from segmamba.data.cases import find_cases
    from segmamba.data.preprocess import prepare_cases

    return prepare_cases(find_cases(folder / "phantom"), folder / "cache", base.data, workers=1)


def train_and_test(config: Config, split: Any) -> list[dict[str, Any]]:
    """Train a network, and score the checkpoint that the validation set chose on the test set.

    It is `train_run` and `evaluate_run` without their files and pictures: the last checkpoint is
    scored where the test set serves as validation set.

    Returns:
        The scores of every test case.
    """
    import torch

    from segmamba.evaluation.cases import evaluate
    from segmamba.models import build_model
    from segmamba.training.fit import fit

    cpu, best = torch.device("cpu"), {}
    for epoch in fit(config, split, cpu):
        if epoch.is_best or split.test_is_validation:
            best = {name: value.clone() for name, value in epoch.checkpoint["model"].items()}
    model = build_model(config.model)
    model.load_state_dict(best)
    return evaluate(model, split.test, config, cpu)


def run_study(plan: Plan, folder: Path) -> Study:
    """Train the trials that the queue hands out, one after another, until it has no more.

    Args:
        plan: The study.
        folder: Its phantom data set, as `write_data_set` left it.

    Returns:
        The study with its trials and looks.
    """
    import torch

    from segmamba.data.splits import split_cases
    from segmamba.orchestration.engine.seed_queue import SeedQueue

    torch.set_num_threads(1)
    split = split_cases(_prepared(folder, plan.base), plan.base.data)
    trials: list[Trial] = []

    def study(seeds: int) -> Study:
        return bare_study(
            plan.claim, tuple(plan.arms), trials, seeds=seeds, max_seeds=plan.max_seeds
        )

    def look(seeds: int, earlier: Sequence[Look]) -> Look:
        return take_look(study(seeds), plan.claim, seeds, earlier)

    queue = SeedQueue(study(3), plan.arms, (), take_look=look)
    while (trial := queue.next()) is not None:
        rows = train_and_test(plan.config(trial), split)
        trials.append(
            Trial(run_id="", arm=trial.arm, seed=trial.seed, status="FINISHED", test_cases=rows)
        )
        queue.ended(trial.key)
    looks = tuple(queue.looks)
    return dataclasses.replace(study(looks[-1].seeds), looks=looks)


def is_alarm(study: Study) -> bool:
    """Whether a study of equal arms calls one of them better."""
    last = study.looks[-1].contrasts[0]
    return verdict(study).answer == "supported" or last.low > 0 or last.high < 0


def seeds_with_known_effect(studies: Sequence[Study]) -> int | None:
    """The seeds with which a fixed design would find the studies' mean effect in 90 %.

    Effect and spreads are those that the studies measured together. The product plans no study of
    fewer than 4 seeds.

    Returns:
        4 or more; None where 15 seeds do not suffice.
    """
    measured = [spread for study in studies if (spread := spreads_of(study)) is not None]
    spreads = Spreads(
        **{
            name: float(np.mean([getattr(spread, name) ** 2 for spread in measured])) ** 0.5
            for name in ("seed_sd", "patient_sd", "rest_sd")
        }
    )
    contrasts = [study.looks[-1].contrasts[0] for study in studies]
    effect, patients = float(np.mean([c.mean for c in contrasts])), contrasts[0].patients
    for seeds in range(4, 16):
        table = power(max_seeds=seeds, patients=patients, spreads=spreads, effects=(effect,))
        if table.rows[0].fixed >= KNOWN_POWER:
            return seeds
    return None


def print_study(title: str, study: Study) -> None:
    """Print a line about a study that has ended."""
    last = study.looks[-1].contrasts[0]
    by_seed = contrast_difference(study, study.hypothesis.contrasts[0], REGION).seed_differences
    print(
        f"{title:12} {study.looks[-1].seeds:5} {len(study.trials):9} {100 * last.mean:+11.1f} "
        f"{100 * last.low:+8.1f} to {100 * last.high:+6.1f} {100 * np.std(by_seed, ddof=1):8.1f}  "
        f"{verdict(study).answer} ({last.state})",
        flush=True,
    )


@contextlib.contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that train side by side."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield pool


def run_studies(plans: dict[str, Plan], root: Path, pool: ProcessPoolExecutor) -> dict[str, Study]:
    """Run studies side by side; print each as it ends.

    Args:
        plans: The studies by title.
        root: Where the phantom data sets go.
        pool: Does the work.

    Returns:
        The studies by title.
    """
    bases = {plan.base.phantom.seed: plan.base for plan in plans.values()}
    folders = {seed: root / f"data{seed}" for seed in bases}
    made = [pool.submit(write_data_set, folders[seed], base) for seed, base in bases.items()]
    for future in made:
        future.result()
    print(
        f"{'study':12} seeds trainings  difference   repeated interval   row sd  answer",
        flush=True,
    )
    running = {
        pool.submit(run_study, plan, folders[plan.base.phantom.seed]): title
        for title, plan in plans.items()
    }
    ended = {}
    for future in as_completed(running):
        title = running[future]
        ended[title] = future.result()
        print_study(title, ended[title])
    return ended


def figures_of(equal: Sequence[Study], planted: Sequence[Study]) -> dict[str, Figure]:
    """The figures with their goals."""
    alarms = sum(is_alarm(study) for study in equal)
    found = [study for study in planted if verdict(study).answer == "supported"]
    spent = [study.looks[-1].seeds for study in planted]
    known = seeds_with_known_effect(planted)
    return {
        "equal arms: studies": Figure(len(equal)),
        "equal arms: alarms": at_most(alarms, MOST_ALARMS),
        "equal arms: seeds, mean": Figure(float(np.mean([s.looks[-1].seeds for s in equal]))),
        "planted: studies that find it": at_least(len(found), len(planted)),
        "planted: seeds, mean": at_most(float(np.mean(spent)), MAX_SEEDS / 2),
        "planted: seeds, slowest study": Figure(max(spent)),
        "planted: within half of 10 seeds": Figure(sum(n <= MAX_SEEDS / 2 for n in spent)),
        "fixed design, effect not known": Figure(MAX_SEEDS, "seeds"),
        "fixed design, effect known": Figure(known, "seeds"),
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count(),
        help="studies at a time (each core has one)",
    )
    parser.add_argument(
        "--folder", type=Path, help="keep the phantoms there, for the next time (a temporary one)"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    bases = [preset("demo").changed(TRAINING | {"phantom.seed": seed}) for seed in range(DATA_SETS)]
    arms = [PLANTED_ARMS] * PLANTED_STUDIES + [EQUAL_ARMS] * EQUAL_STUDIES
    kinds = ["planted"] * PLANTED_STUDIES + ["equal"] * EQUAL_STUDIES
    plans = {
        f"{kind} {number}": Plan(number, two, bases[number % DATA_SETS])
        for number, (kind, two) in enumerate(zip(kinds, arms, strict=True))
    }
    with tempfile.TemporaryDirectory() as scratch, workers(options.processes) as pool:
        studies = run_studies(plans, options.folder or Path(scratch), pool)
    equal, planted = (
        [study for title, study in studies.items() if title.startswith(kind)]
        for kind in ("equal", "planted")
    )
    trainings = sum(len(study.trials) for study in studies.values())
    seconds = time.perf_counter() - started
    print(f"\n{trainings} trainings in {seconds:.0f} s")
    report(figures_of(equal, planted), options.json, trainings=trainings, seconds=round(seconds))


if __name__ == "__main__":
    main()
