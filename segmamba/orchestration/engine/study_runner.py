"""One start of a study: the search, where there is a space; then every arm, seed and fold."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from segmamba.errors import UserError
from segmamba.orchestration.engine.context import StudyContext, TrialFunction
from segmamba.orchestration.engine.planning import announce, fold_changes, infeasible_arms
from segmamba.orchestration.engine.resources import Resources, loader_workers
from segmamba.studies.results import ENDED
from segmamba.studies.spec import FOUND, Stage, TrialPlan
from segmamba.studies.words import count
from segmamba.training.compiler_cache import CompilerCache
from segmamba.training.passes import forward_passes

if TYPE_CHECKING:
    from pathlib import Path

    from segmamba.config import Config
    from segmamba.orchestration.engine.compiling_ahead import StudyGraphs
    from segmamba.orchestration.engine.launch import TrialLauncher
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.orchestration.engine.planning import Prepared
    from segmamba.orchestration.engine.population_rounds import Rounds
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.tracking.study_run import StudyRun
    from segmamba.studies.results import Study, Trial

T = TypeVar("T")


@dataclass
class StudyRunner:
    """Runs what one start of a study has to run."""

    ready: Prepared
    options: StudyOptions
    study: Study
    resources: Resources
    context: StudyContext
    progress: ProgressDisplay
    graphs: StudyGraphs
    """What the trials share, perhaps still being compiled."""
    trial: TrialFunction
    """What Ray runs for each trial."""

    def run(self) -> None:
        """Search, where there is a space; then run every arm with every seed on every fold."""
        if self.ready.spec.space:
            best, schedule = self._search()
            if best is None:
                return
            configs = self.context.configs | {FOUND: self.ready.base.changed(best.changes or {})}
            self.context = dataclasses.replace(
                self.context, configs=configs, schedule=schedule, compile=self._compile(configs)
            )
        if self.study.max_seeds:
            self._run_seeds()
            return
        over = self.study.over
        plans = [plan for plan in self.study.plans if plan.key not in over]
        plans = self._without_infeasible(plans)
        reused = self._reused(plans)
        plans = [plan for plan in plans if plan.key not in reused]
        announce(self.study, self.resources, len(plans), self.progress)
        if not plans:  # only the report was missing
            return
        base = self.ready.base
        launcher = self._launcher()
        self.progress.trials(plans, base.train.epochs, self.resources.at_once)
        launcher.run_trials(plans, scheduler=self.arms_scheduler, base=base)

    def _run_seeds(self) -> None:
        """Run the arms with one seed after another, until the claim is decided."""
        from segmamba.orchestration.engine.seed_queue import SeedQueue
        from segmamba.orchestration.engine.sequential_looks import SequentialLooks

        plans = self._without_infeasible(self.study.plans)
        looks = SequentialLooks(self.context.run, self.study.hypothesis, self.progress)
        queue = SeedQueue(
            self.study,
            {plan.arm for plan in plans},
            self.study.over,
            take_look=looks.take,
            answered=self._reused,
            length=lambda plan: forward_passes(self.context.config(plan)),
        )
        first = queue.next()
        if first is not None:
            queue.put_back(first)
            announce(self.study, self.resources, len(queue.waiting), self.progress)
            base = self.ready.base
            launcher = self._launcher()
            self.progress.trials(queue.waiting, base.train.epochs, self.resources.at_once)
            launcher.run_seeds(queue)
        looks.close()

    @property
    def arms_scheduler(self) -> str:
        """What the arms train under; a population belongs to the search alone."""
        scheduler = self.options.scheduler
        return "none" if scheduler in (None, "pbt") else str(scheduler)

    def _search(self) -> tuple[Trial | None, tuple[Stage, ...]]:
        """The Trial that the validation set likes best and the Stages of its weights.

        (None, ()) where the search was stopped or chose nothing.
        """
        from segmamba.orchestration.engine.launch import COPIES
        from segmamba.orchestration.engine.search import best_trial, importance
        from segmamba.orchestration.tracking.study_reader import read_study

        spec, base = self.ready.spec, self.ready.base
        baseline = {name: base.to_flat_dict()[name] for name in spec.space}
        ended = [trial.arm for trial in self.study.searched if trial.status in ENDED]
        wanted = self.options.trials or spec.budget.trials
        rounds = self._rounds(baseline, wanted) if self.study.round_every else None
        missing = wanted - len(ended)
        if missing > 0:
            self.progress.say(
                f"search   {missing} of {wanted} trials to run over {len(spec.space)} settings, "
                "chosen by the validation set"
            )
            self.progress.trials([], base.train.epochs, self.resources.at_once, further=missing)
            self._launch_search(baseline, missing, rounds, ended)
        study = self._retry(lambda: read_study(self.context.run))
        if sum(trial.status in ENDED for trial in study.searched) < wanted:
            return None, ()
        shutil.rmtree(
            self.context.folder / COPIES, ignore_errors=True
        )  # nobody takes them any more
        best = best_trial(study.searched, baseline)
        if best is None:
            return None, ()
        schedule = tuple(rounds.lineage(best.arm)) if rounds else ()
        # The Dice of a population's member comes of many settings.
        shares = {} if rounds else importance(spec.space, study.searched)
        self._retry(lambda: self.context.run.log_search_result(best, shares, schedule))
        settings = ", ".join(f"{name} {value}" for name, value in (best.changes or {}).items())
        self.progress.say(f"found    {best.arm}: {settings}")
        return best, schedule

    def _rounds(self, baseline: dict[str, Any], size: int) -> Rounds:
        """The Rounds of a population, begun."""
        from segmamba.orchestration.engine.population_rounds import Rounds

        rounds = Rounds(self.context.folder, self.study.round_every)
        rounds.begin(self.ready.spec.space, baseline, size)
        often = "epoch" if rounds.every == 1 else f"{rounds.every} epochs"
        self.progress.say(
            f"pbt      {size} members, a round every {often}; no run is reused: each depends on "
            "the others"
        )
        return rounds

    def _launch_search(
        self, baseline: dict[str, Any], missing: int, rounds: Rounds | None, ended: list[str]
    ) -> None:
        from segmamba.orchestration.engine.search import SpaceSearch

        space, base = self.ready.spec.space, self.ready.base
        launcher = self._launcher()
        if rounds:
            launcher.run_population(space, rounds, ended=ended, base=base)
            return
        launcher.run_search(
            SpaceSearch(space, baseline, earlier=self.study.searched),
            missing,
            scheduler=self.options.scheduler or "asha",
            base=base,
        )

    def _compile(self, configs: Mapping[str, Config]) -> str:
        """Whether the arms after a search are compiled, where its trials decided for themselves.

        They are compared, and run the same way: compiled where that pays for each of them.
        """
        import torch

        from segmamba.training.compiling import compile_decision

        if self.context.compile != "auto" or not self.resources.gpus:
            return self.context.compile
        device = torch.device("cuda")
        pays = all(compile_decision(config, device)[0] for config in configs.values())
        return "always" if pays else "never"

    def _retry(self, call: Callable[[], T]) -> T:
        """What a call to MLflow returns, made again while MLflow is away."""
        return self.context.run.store.retry(call, self.progress.say)

    def _launcher(self) -> TrialLauncher:
        """What runs the trials, once their graphs are compiled."""
        from segmamba.data.loader import batch_bytes
        from segmamba.data.prefetch import note_on_shared_memory
        from segmamba.orchestration.engine.launch import TrialLauncher

        if self.context.compile == "never":  # as a study that is resumed began, perhaps
            self.graphs.drop()
        elif not self.graphs.settled(self.progress):  # a new study settles before it begins
            raise UserError(
                f"--resume: {self.study.name} began compiled and would go on otherwise "
                f"({self.graphs.choice.reason}); put that right, or start a new study"
            )
        base, workers = self.ready.base, self.context.workers
        note = note_on_shared_memory(
            base.data.workers if workers is None else workers,
            batch_bytes(base),
            streams=self.resources.at_once,
        )
        if note and not self.options.ray_address:  # the nodes of a cluster have their own
            self.progress.say(f"note     {note}")
        return TrialLauncher(self.context, self.resources, self.progress, self.trial)

    def _without_infeasible(self, plans: list[TrialPlan]) -> list[TrialPlan]:
        """The plans of arms that can run here; the others end at once, with the reason."""
        from segmamba.orchestration.tracking.study_run import INFEASIBLE_TAG

        arms = dict.fromkeys(plan.arm for plan in plans)
        reasons = infeasible_arms({arm: self.context.configs[arm] for arm in arms})
        for arm, reason in reasons.items():
            self.progress.say(f"left out {arm}: {reason}")
        for plan in plans:
            if plan.arm in reasons:
                self._retry(
                    functools.partial(
                        self.context.run.end_trial,
                        plan.key,
                        "FAILED",
                        tags=functools.partial(self.context.trial_tags, plan),
                        reason=reasons[plan.arm],
                        marks={INFEASIBLE_TAG: "yes"},
                    )
                )
        return [plan for plan in plans if plan.arm not in reasons]

    def _reused(self, plans: Sequence[TrialPlan]) -> set[str]:
        """The keys of the trials that finished runs answer; they are taken from there."""
        if self.options.fresh or self.study.round_every:
            return set()
        from segmamba.orchestration.tracking.reuse import DIGEST_TAG

        run, tags = self.context.run, self.context.trial_tags
        digests = {plan: tags(plan)[DIGEST_TAG] for plan in plans}
        sources = self._retry(lambda: run.reusable(set(digests.values())))
        reused = set()
        for plan, digest in digests.items():
            if digest in sources:
                source = sources[digest]
                self._retry(functools.partial(run.reuse_trial, plan.key, tags(plan), source))
                reused.add(plan.key)
        if reused:
            them = "it" if len(reused) == 1 else "them"
            self.progress.say(
                f"reused   {count(len(reused), 'trial')} trained before, to the letter; --fresh "
                f"trains {them} again"
            )
        return reused


def study_context(
    ready: Prepared,
    options: StudyOptions,
    study: Study,
    resources: Resources,
    *,
    run: StudyRun,
    folder: Path,
) -> StudyContext:
    """Put together what all trials of a study share.

    Args:
        ready: The question and its cases.
        options: What the user chose.
        study: As it is planned.
        resources: How its trials share the machine.
        run: Its run in MLflow.
        folder: Where its trials keep their files.
    """
    tags = {
        "study": study.name,
        "preset": study.preset,
        "dataset": study.data.source,
        "labels_convention": study.data.convention,
        "git_commit": study.environment["git commit"],
        "mlflow.source.name": study.command,
    }
    folds = {
        fold: (fold_changes(options, ready.base, fold), split)
        for fold, split in ready.splits.items()
    }
    return StudyContext(
        configs=ready.configs,
        folds=folds,
        folder=folder,
        run=run,
        tags=tags,
        threads=resources.threads,
        compile=resources.compile,
        compiler=str(CompilerCache.below(options.output).folder),
        workers=loader_workers(ready.base, resources),
        baseline=study.baseline,
        data=ready.data if ready.base.data.split_by_seed else None,
        cases=tuple(ready.data.cases) if options.cache else (),
        cache=options.cache,
    )
