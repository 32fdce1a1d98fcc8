"""Population-based training: who copies whom, what a copy is, and the settings that come of it."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
import torch
from ray.tune.experiment import Trial as RayTrial

from segmamba.config import preset
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.weights import load_checkpoint
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.population import SCORE, Population
from segmamba.orchestration.engine.population_member import epochs_done, join_population, parts
from segmamba.orchestration.engine.population_rounds import Rounds, explore, first_settings
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.search_space import Between, OneOf
from segmamba.studies.spec import Budget, Stage, StudySpec, TrialPlan
from segmamba.training.checkpoint import save_checkpoint
from segmamba.training.optim import Optimizer
from segmamba.training.run_folder import RunFolder

SPACE = {
    "optim.lr": Between(1e-4, 1e-2, log=True),
    "data.tumour_centre_share": Between(0.0, 0.9),
    "augment.scale_range": OneOf(((1.0, 1.0), (0.9, 1.1), (0.7, 1.4))),
    "optim.warmup_epochs": Between(0, 3),
}
BASELINE = {
    "optim.lr": 1e-3,
    "data.tumour_centre_share": 0.5,
    "augment.scale_range": (0.9, 1.1),
    "optim.warmup_epochs": 1,
}
EVERY, EPOCHS = 2, 6


def inside(settings):
    return (
        all(SPACE[name].from_setting(value) is not None for name, value in settings.items())
        and settings.keys() == SPACE.keys()
    )


def copied(folder, arm, epoch):
    """Where the checkpoint of a member after an epoch lies."""
    return str(folder / "population" / f"{arm} at {epoch}")


class RayLike:
    """Ray's loop as the scheduler sees it, without processes.

    Trials report, wait and start again, one at a time.
    """

    def __init__(self, folder, size=4, scores=None):
        folder.mkdir(exist_ok=True)
        self.folder, self.rounds = folder, Rounds(folder, EVERY)
        self.rounds.begin(SPACE, BASELINE, size)
        self.scheduler, self.search_alg = Population(SPACE, self.rounds, EPOCHS), None
        self.scores = scores or {arm: number / 10 for number, arm in enumerate(self.rounds.members)}
        self.trials = [self._trial(arm) for arm in self.rounds.members]
        for trial in self.trials:
            self.scheduler.on_trial_add(self, trial)

    def _trial(self, arm):
        plan, done = self.rounds.plan(arm), self.rounds.done
        trial = SimpleNamespace(
            config={"trial": plan},
            status=RayTrial.PENDING,
            checkpoint=None,
            trial_id=arm,
            experiment_tag="",
            epoch=done,
        )
        trial.is_finished = lambda: trial.status == RayTrial.TERMINATED
        trial.set_config, trial.set_experiment_tag = (
            lambda config: setattr(trial, "config", config),
            lambda tag: None,
        )
        trial.temporary_state = SimpleNamespace(saving_to=None)
        manager = SimpleNamespace(
            checkpoint_config=SimpleNamespace(num_to_keep=3), _latest_checkpoint_result=None
        )
        trial.run_metadata = SimpleNamespace(checkpoint_manager=manager)
        return HashableTrial(trial)

    def get_trials(self):
        return self.trials

    def get_live_trials(self):
        return [trial for trial in self.trials if not trial.is_finished()]

    def pause_trial(self, trial, should_checkpoint):
        trial.status = RayTrial.PAUSED

    def _schedule_trial_save(self, trial, result):
        return trial.checkpoint

    def run_until(self, epoch, *, failing=()):
        """Train all members that the scheduler lets train to `epoch`.

        Those in `failing` report in their next epoch that they failed.
        """
        while (trial := self.scheduler.choose_trial_to_run(self)) and trial.epoch < epoch:
            arm, trial.status = trial.config["trial"].arm, RayTrial.RUNNING
            if arm in failing:
                self.scheduler.on_trial_result(
                    self, trial, {"epoch": 0, "failed": "diverged", "log": ""}
                )
                self.scheduler.on_trial_complete(self, trial, {})
                trial.status = RayTrial.TERMINATED
                continue
            while trial.status == RayTrial.RUNNING and trial.epoch < epoch:
                trial.epoch += 1
                trial.checkpoint = SimpleNamespace(path=copied(self.folder, arm, trial.epoch))
                decision = self.scheduler.on_trial_result(
                    self, trial, {"epoch": trial.epoch, SCORE: self.scores[arm]}
                )
                if decision == self.scheduler.PAUSE:
                    trial.status = RayTrial.PAUSED

    @property
    def plans(self):
        return {trial.config["trial"].arm: trial.config["trial"] for trial in self.trials}


class HashableTrial:
    """A namespace that may be a dictionary's key."""

    def __init__(self, fields):
        self.__dict__ = fields.__dict__


def test_at_a_round_the_worst_takes_the_best_ones_checkpoint_and_other_settings_within_the_space(
    tmp_path,
):
    ray = RayLike(tmp_path)
    before = dict(ray.rounds.members)
    ray.run_until(EVERY)
    worst, best = ray.plans["trial 00"], ray.plans["trial 03"]
    assert worst.stages[-1] == Stage(
        epoch=EVERY,
        changes=worst.changes,
        donor="trial 03",
        checkpoint=copied(tmp_path, "trial 03", EVERY),
    )
    assert worst.changes not in (BASELINE, best.changes) and inside(worst.changes)
    assert {arm: plan.stages for arm, plan in ray.plans.items() if arm != "trial 00"} == {
        a: s for a, s in before.items() if a != "trial 00"
    }
    assert sorted(ray.plans) == sorted(before), "who copies keeps its name"


def test_a_member_that_fails_is_not_waited_for_and_not_copied(tmp_path):
    ray = RayLike(tmp_path)
    ray.run_until(EVERY, failing=("trial 03",))
    assert ray.rounds.done == EVERY and ray.plans["trial 00"].stages[-1].donor == "trial 02"
    last = RayLike(
        tmp_path / "last",
        scores={"trial 00": 0.3, "trial 01": 0.2, "trial 02": 0.1, "trial 03": 0.0},
    )
    order = iter([0, 1, 2, 3])
    last.scheduler.choose_trial_to_run = lambda controller: next(
        (last.trials[i] for i in order), None
    )
    last.run_until(EVERY, failing=("trial 03",))
    assert last.rounds.done == EVERY and last.plans["trial 02"].stages[-1].donor == "trial 00", (
        "the last to be waited for failed"
    )


def test_a_population_whose_driver_died_goes_on_to_the_same_end(tmp_path):
    calm, cut = RayLike(tmp_path / "calm"), RayLike(tmp_path / "cut")
    for ray in (calm, cut):
        ray.run_until(EVERY)
    calm.run_until(2 * EVERY)
    again = RayLike(tmp_path / "cut")
    assert again.plans == cut.plans
    again.run_until(2 * EVERY)
    elsewhere = str(again.plans).replace(str(tmp_path / "cut"), str(tmp_path / "calm"))
    assert elsewhere == str(calm.plans) and again.rounds.done == 2 * EVERY
    with pytest.raises(UserError, match="--resume: the population has 4 members; give --trials 4"):
        Rounds(tmp_path / "cut", EVERY).begin(SPACE, BASELINE, 5)


def test_there_is_no_round_at_the_last_epoch(tmp_path):
    ray = RayLike(tmp_path)
    ray.run_until(EPOCHS)
    assert ray.rounds.done == EPOCHS - EVERY and all(trial.epoch == EPOCHS for trial in ray.trials)


def test_a_lineage_follows_the_weights_through_their_donors(tmp_path):
    rounds = Rounds(tmp_path, 2)
    rounds.begin(SPACE, BASELINE, 3)
    first, second = rounds.members["trial 01"][0], rounds.members["trial 02"][0]
    rounds.settle(2, {"trial 00": (early := Stage(epoch=2, changes=BASELINE, donor="trial 01"))})
    late, unrelated = (
        Stage(epoch=4, changes=BASELINE, donor="trial 00"),
        Stage(epoch=4, changes=BASELINE, donor="trial 02"),
    )
    rounds.settle(4, {"trial 02": late, "trial 01": unrelated})
    assert Rounds(tmp_path, 2).lineage("trial 02") == [first, early, late]
    assert Rounds(tmp_path, 2).lineage("trial 00") == [first, early]
    assert second not in Rounds(tmp_path, 2).lineage("trial 02")


def test_settings_that_change_stay_in_the_space_and_do_change():
    rng, settings = random.Random(1), dict(BASELINE)
    for _ in range(300):
        changed = explore(SPACE, settings, rng)
        assert inside(changed) and isinstance(changed["optim.warmup_epochs"], int)
        preset("demo").changed(changed)
        settings = changed
    near = {SPACE["optim.lr"].near(1e-3, rng) for _ in range(50)}
    assert sorted(near) == pytest.approx([8e-4, 1.2e-3]) and {
        SPACE["optim.lr"].near(1e-2, rng) for _ in range(9)
    } == {8e-3}
    assert SPACE["data.tumour_centre_share"].near(0.0, rng) > 0, "a factor leads nowhere from 0"
    assert {SPACE["augment.scale_range"].near((1.0, 1.0), rng) for _ in range(9)} == {(0.9, 1.1)}
    members = first_settings(SPACE, BASELINE, 5)
    assert (
        members["trial 00"] == BASELINE
        and len({str(one) for one in members.values()}) == 5
        and all(map(inside, members.values()))
    )


class RecordedLog:
    """Stands in for a RunLog; keeps tags and files."""

    def __init__(self):
        self.tags, self.files = {}, []

    def log_tags(self, tags):
        self.tags |= tags

    def log_files(self, paths, folder):
        self.files += paths


def checkpoint(epoch, fill):
    weights = {"w": torch.full((3,), fill)}
    return {
        "model": weights,
        "trained": {},
        "optimizer": {"m": fill},
        "epoch": epoch,
        "best": 0.1,
        "best_epoch": epoch,
        "random": {},
    }


def test_a_copy_brings_weights_optimiser_and_epoch_once_and_the_member_goes_on_from_its_own(
    tmp_path,
):
    donor, member, log = tmp_path / "copy", RunFolder(tmp_path / "member"), RecordedLog()
    donor.mkdir()
    save_checkpoint(checkpoint(2, 7.0), donor / "last.pth")
    save_checkpoint({"w": torch.full((3,), 7.0)}, donor / "best_metric_model.pth")
    save_checkpoint(checkpoint(1, 1.0), member.previous)
    save_checkpoint(checkpoint(2, 1.0), member.last)
    stages = (
        Stage(epoch=0, changes={"optim.lr": 1e-3}),
        Stage(epoch=2, changes={"optim.lr": 8e-4}, donor="trial 03", checkpoint=str(donor)),
    )
    plan = TrialPlan(
        arm="trial 00", seed=0, changes=stages[-1].changes, stages=stages, round_every=2
    )
    join_population(plan, member, log)
    taken = load_checkpoint(member.last, "cpu")
    assert (
        torch.equal(taken["model"]["w"], torch.full((3,), 7.0))
        and taken["optimizer"] == {"m": 7.0}
        and taken["epoch"] == 2
    )
    assert (
        torch.equal(load_checkpoint(member.best, "cpu")["w"], torch.full((3,), 7.0))
        and not member.previous.exists()
    )
    row = {"epoch": 2, "from": "trial 03", "old": {"optim.lr": 1e-3}, "new": {"optim.lr": 8e-4}}
    assert log.tags == {
        "changes": json.dumps({"optim.lr": 8e-4}),
        "copied": "trial 03 after epoch 2",
    }
    assert [json.loads(path.read_text()) for path in log.files] == [[row]]

    save_checkpoint(checkpoint(3, 8.0), member.last)
    join_population(plan, member, log)
    assert epochs_done(member) == 3, "a process that starts again has its copy already"
    (part, end), *more = parts(preset("demo"), stages, member)
    assert (part.optim.lr, end, more) == (8e-4, 6, [])


def test_a_member_whose_copy_is_gone_keeps_its_weights_and_says_so(tmp_path):
    member = RunFolder(tmp_path / "member")
    save_checkpoint(checkpoint(2, 1.0), member.last)
    gone = Stage(epoch=2, changes={}, donor="trial 03", checkpoint=str(tmp_path / "copy"))
    plan = TrialPlan(
        arm="trial 00", seed=0, changes={}, stages=(Stage(epoch=0, changes={}), gone), round_every=2
    )
    with pytest.raises(FileNotFoundError, match="which trial 00 takes from trial 03, is gone"):
        join_population(plan, member, RecordedLog())
    assert epochs_done(member) == 2


@pytest.mark.parametrize("whole", [False, True])
def test_the_copies_of_a_population_are_found_where_its_folder_was_moved(tmp_path, whole):
    before, now = tmp_path / "Results" / "tune_Run01", tmp_path / "Elsewhere" / "tune_Run01"
    before.mkdir(parents=True)
    rounds = Rounds(before, 2)
    rounds.begin(SPACE, BASELINE, 2)
    copy = before / "population" / "2026" / "trial_a" / "checkpoint_000000"
    stage = Stage(epoch=2, changes=BASELINE, donor="trial 00", checkpoint=str(copy))
    rounds.settle(2, {"trial 01": stage})
    kept = (before / "population.json").read_text()
    assert str(before) not in kept
    if whole:  # as versions before 0.4 kept it
        (before / "population.json").write_text(
            kept.replace('"population/', f'"{before}/population/')
        )
    before.parent.rename(now.parent)
    moved = Rounds(now, 2).members["trial 01"][-1]
    assert moved.checkpoint == str(now / copy.relative_to(before))


def test_whoever_follows_a_schedule_trains_each_part_with_its_settings(tmp_path):
    folder, stages = (
        RunFolder(tmp_path),
        (Stage(epoch=0, changes={"optim.lr": 1e-3}), Stage(epoch=2, changes={"optim.lr": 8e-4})),
    )
    assert [(c.optim.lr, end) for c, end in parts(preset("demo"), stages, folder)] == [
        (1e-3, 2),
        (8e-4, 6),
    ]
    save_checkpoint(checkpoint(2, 1.0), folder.last)
    assert [(c.optim.lr, end) for c, end in parts(preset("demo"), stages, folder)] == [(8e-4, 6)]
    assert parts(preset("demo"), (), folder) == [(preset("demo"), 6)]


def test_a_checkpoint_brings_its_moments_and_not_its_decay_and_betas():
    cpu, before = torch.device("cpu"), preset("demo").changed({"model.base_channels": 4})
    after = before.changed({"optim.weight_decay": 0.3, "optim.betas": (0.8, 0.99)})
    model = build_model(before.model)
    donor, own = Optimizer(model, before, cpu), Optimizer(copy.deepcopy(model), after, cpu)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    donor.step(1e-3)
    own.load_state_dict(donor.state_dict())
    (decayed, undecayed), state = (
        own.state_dict()["optimizer"]["param_groups"],
        own.state_dict()["optimizer"]["state"],
    )
    assert (decayed["weight_decay"], undecayed["weight_decay"], decayed["betas"]) == (
        0.3,
        0.0,
        (0.8, 0.99),
    )
    assert all(
        torch.equal(state[i]["exp_avg"], kept["exp_avg"])
        for i, kept in donor.state_dict()["optimizer"]["state"].items()
    )


def search(**fields):
    claim = Hypothesis(claim="It helps.", better="found", than="baseline")
    return StudySpec(name="s", question="?", hypothesis=claim, baseline="baseline", **fields)


def test_what_cannot_change_while_training_is_refused_by_name_with_the_way_out():
    structural = {
        "model.norm": OneOf(("batch", "instance")),
        "data.patch_size": OneOf(((32, 32, 32), (48, 48, 32))),
    }
    with pytest.raises(
        UserError,
        match=r"--scheduler pbt: model.norm, data.patch_size cannot change while a network trains; "
        "list the others as",
    ):
        search(space=SPACE | structural).as_population()
    left = search(space=SPACE | structural, population_space=tuple(SPACE)).as_population()
    assert (
        left.space == SPACE
        and "leaves model.norm, data.patch_size as the baseline has it" in left.notes[0]
    )
    with pytest.raises(UserError, match=r"population_space names optim\.momentum"):
        search(space=SPACE, population_space=("optim.momentum",)).as_population()
    with pytest.raises(UserError, match="has no search space"):
        search(arms={"baseline": {}, "found": {"optim.lr": 1e-3}}).as_population()
    with pytest.raises(UserError, match="at least 2 members"):
        StudyOptions(scheduler="pbt", trials=1)


@pytest.mark.parametrize(
    ("epochs", "validate", "chosen", "expected"),
    [
        (6, 3, 0, 3),
        (300, 5, 0, 30),
        (50, 1, 0, 5),
        (4, 1, 0, 1),
        (6, 1, 2, 2),
        (6, 3, 2, "multiple of"),
        (3, 3, 0, "no round before the last"),
    ],
)
def test_rounds_come_with_an_evaluation_about_ten_times(epochs, validate, chosen, expected):
    train = (
        preset("demo")
        .changed({"train.epochs": epochs, "train.validate_every_epochs": validate})
        .train
    )
    if isinstance(expected, int):
        assert Budget(copy_every_epochs=chosen).rounds_every(train) == expected
    else:
        with pytest.raises(UserError, match=expected):
            Budget(copy_every_epochs=chosen).rounds_every(train)
