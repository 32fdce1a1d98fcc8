"""What one start of a study runs: the search, where there is a space; then every arm with every seed on every fold."""

import dataclasses
import shutil

from segmamba.orchestration.engine.planning import announce, fold_changes, infeasible_arms
from segmamba.studies.spec import FOUND


class StudyRunner:
    """One start of a study: what it has to run, and running it."""

    def __init__(self, ready, options, folder, experiment, study, resources, progress):
        self.spec, self.base, self.options = ready.spec, ready.base, options
        self.study, self.resources, self.progress = study, resources, progress
        self.context = _context(ready, options, folder, experiment, study, resources)

    def run(self):
        """Search, where there is a space; then every arm with every seed on every fold."""
        if self.spec.space:
            best, schedule = self._search()
            if best is None:
                return
            found = self.context.configs | {FOUND: self.base.changed(best.changes)}
            self.context = dataclasses.replace(self.context, configs=found, schedule=schedule)
        ended = {
            (t.arm, t.seed, t.fold)
            for t in self.study.trials
            if t.status in ("FINISHED", "INFEASIBLE")
        }
        plans = [plan for plan in self.study.plans if (plan.arm, plan.seed, plan.fold) not in ended]
        plans = self._without_reused(self._without_infeasible(plans))
        announce(self.study, self.resources, len(plans), self.progress)
        if plans:  # none where only the report was missing
            from segmamba.orchestration.engine.launch import run_trials

            self.progress.trials(plans, self.base.train.epochs, self.resources.at_once)
            run_trials(
                plans,
                self.context,
                self.resources,
                self.progress,
                scheduler=self.arms_scheduler,
                base=self.base,
            )

    @property
    def arms_scheduler(self):
        """What the tested arms train under; a population is of the search alone."""
        return "none" if self.options.scheduler in (None, "pbt") else self.options.scheduler

    def _search(self):
        """(the Trial that the validation set likes best, the Stages of its weights); (None, ()) where the search was stopped or found nothing."""
        from segmamba.orchestration.engine.launch import COPIES
        from segmamba.orchestration.engine.search import ENDED, best_trial, importance
        from segmamba.orchestration.tracking.runs import store_found
        from segmamba.orchestration.tracking.study_reader import read_study

        baseline = {name: self.base.to_flat_dict()[name] for name in self.spec.space}
        ended, wanted = (
            [t.arm for t in self.study.searched if t.status in ENDED],
            self.options.trials or self.spec.budget.trials,
        )
        rounds = self._rounds(baseline, wanted) if self.study.round_every else None
        missing = wanted - len(ended)
        if missing > 0:
            self.progress.say(
                f"search   {missing} of {wanted} trials to run over {len(self.spec.space)} settings, chosen by the validation set"
            )
            self.progress.trials(
                [], self.base.train.epochs, self.resources.at_once, further=missing
            )
            self._launch_search(baseline, missing, rounds, ended)
        study = read_study(self.context.mlflow_uri, self.study.parent_run_id, seconds=0.0)
        if sum(trial.status in ENDED for trial in study.searched) < wanted:
            return None, ()
        shutil.rmtree(
            self.context.folder / COPIES, ignore_errors=True
        )  # copies that nobody takes any more
        best = best_trial(study.searched, baseline)
        if best is None:
            return None, ()
        schedule = tuple(rounds.lineage(best.arm)) if rounds else ()
        shares = (
            {} if rounds else importance(self.spec.space, study.searched)
        )  # a member's Dice comes of many settings
        store_found(self.context.mlflow_uri, self.study.parent_run_id, best, shares, schedule)
        self.progress.say(
            f"found    {best.arm}: "
            + ", ".join(f"{name} {value}" for name, value in best.changes.items())
        )
        return best, schedule

    def _rounds(self, baseline, size):
        """The Rounds of a population, begun."""
        from segmamba.orchestration.engine.population import Rounds

        rounds = Rounds(self.context.folder, self.study.round_every)
        rounds.begin(self.spec.space, baseline, size)
        often = "epoch" if rounds.every == 1 else f"{rounds.every} epochs"
        self.progress.say(
            f"pbt      {size} members, a round every {often}; no run is reused: each depends on the others"
        )
        return rounds

    def _launch_search(self, baseline, missing, rounds, ended):
        from segmamba.orchestration.engine.launch import run_population, run_search

        shared = (self.context, self.resources, self.progress)
        if rounds:
            run_population(self.spec.space, rounds, *shared, ended=ended, base=self.base)
        else:
            run_search(
                self.spec.space,
                baseline,
                missing,
                self.study.searched,
                *shared,
                scheduler=self.options.scheduler or "asha",
                base=self.base,
            )

    def _without_infeasible(self, plans):
        """The plans of arms that can run here; the others end at once, with the reason."""
        from segmamba.orchestration.tracking.runs import INFEASIBLE_TAG, end_trial

        reasons = infeasible_arms(
            {arm: self.context.configs[arm] for arm in dict.fromkeys(plan.arm for plan in plans)}
        )
        for arm, reason in reasons.items():
            self.progress.say(f"left out {arm}: {reason}")
        for plan in plans:
            if plan.arm in reasons:
                end_trial(
                    self.context,
                    plan,
                    "FAILED",
                    reason=reasons[plan.arm],
                    marks={INFEASIBLE_TAG: "yes"},
                )
        return [plan for plan in plans if plan.arm not in reasons]

    def _without_reused(self, plans):
        """The plans that no finished run answers; the others are taken from there."""
        if self.options.fresh or self.study.round_every:
            return plans
        from segmamba.orchestration.tracking.runs import reuse_trial

        trained_before = [plan for plan in plans if reuse_trial(self.context, plan)]
        if trained_before:
            self.progress.say(
                f"reused   {len(trained_before)} trials that were trained before, to the letter; --fresh trains them again"
            )
        return [plan for plan in plans if plan not in trained_before]


def _context(ready, options, folder, experiment, study, resources):
    from segmamba.orchestration.engine.trainable import StudyContext

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
    cases = tuple(ready.cases) if options.cache else ()
    return StudyContext(
        ready.configs,
        folds,
        folder,
        study.mlflow_uri,
        experiment,
        study.parent_run_id,
        tags,
        resources.threads,
        resources.compile,
        study.baseline,
        cases,
        options.cache,
    )
