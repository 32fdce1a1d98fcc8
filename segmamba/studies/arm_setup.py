"""What an arm was trained with: two arms are the same where their setups are equal."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segmamba.studies.comparable import FIXED, FREE
from segmamba.studies.results import Study, Trial
from segmamba.studies.spec import FOUND

CASES = "cases"
PARTS = {"code": "the code", "torch": "torch", "device": "the device", CASES: "the prepared cases"}
"""What a trial is made with beside its settings and its split, in words."""
NO_RESULT = ("seed", "data.source", "data.names", "data.fold")
"""Settings that do not count: the seed, where cases lie and how they are named, and which fold."""
MANY = 4  # differences that a note names


@dataclass(frozen=True)
class ArmSetup:
    """All that the results of an arm depend on, its seeds apart."""

    settings: Mapping[str, str]
    """The whole configuration as MLflow's text, without NO_RESULT."""
    made_with: Mapping[str, str]
    """Code, torch, device and prepared cases of its trials, by the names of PARTS."""
    cases: tuple[tuple[str, ...], ...]
    """The ids of the training, validation and test cases, for each fold where there are folds."""
    schedule: str = ""
    """In a population, the schedule of settings that the arm followed."""

    @property
    def name(self) -> str:
        """A text that is the same for two setups exactly where these are equal."""
        parts = [dict(self.settings), dict(self.made_with), self.cases, self.schedule]
        return json.dumps(parts, sort_keys=True)


def setup_of(study: Study, arm: str) -> ArmSetup:
    """What an arm of a study was trained with.

    Args:
        study: The study.
        arm: Name of the arm.

    Returns:
        The ArmSetup. Trials that do not name their code (before 0.3) have the study's commit; code
        with changes after the commit equals no other.
    """
    trials = [trial for trial in study.trials if trial.arm == arm]
    logged = next((trial.params for trial in trials if trial.params), None)
    settings = logged or as_logged(dict(study.config) | study.arms[arm])
    known = [_made_with(study, trial) for trial in trials if trial.params] or [{}]
    made_with = {part: " and ".join(sorted({of.get(part, "") for of in known})) for part in PARTS}
    if study.test_sets_vary:  # so do the cases of each trial
        made_with[CASES] = ""
    sets = study.data.folds or (study.data,)
    follows = arm == FOUND and study.schedule
    return ArmSetup(
        settings={name: text for name, text in settings.items() if name not in NO_RESULT},
        made_with=made_with,
        cases=()
        if study.test_sets_vary
        else tuple(tuple(sorted(ids)) for of in sets for ids in of.by_name.values()),
        schedule=json.dumps(study.schedule, sort_keys=True) if follows else "",
    )


def differences_between(setup: ArmSetup, other: ArmSetup) -> list[str]:
    """What differs between two setups, in words.

    Args:
        setup: The one.
        other: The other.

    Returns:
        A phrase for each difference, for example "optim.lr is 0.003 and 0.001"; MANY at most, then
        the number of those left.
    """
    found = list(_differences(setup, other))
    left = len(found) - MANY
    return found if left < 1 else [*found[:MANY], f"{left} more"]


def _differences(setup: ArmSetup, other: ArmSetup) -> Iterator[str]:
    if setup.cases != other.cases:
        yield "the data split differs"
    for name in dict.fromkeys([*setup.settings, *other.settings]):
        one, two = (of.settings.get(name, "not known") for of in (setup, other))
        if one != two:
            yield f"{name} is {one} and {two}"
    for part, words in PARTS.items():
        one, two = setup.made_with[part], other.made_with[part]
        if one != two:
            named = part in ("torch", "device") and one and two
            yield f"{words} is {one} and {two}" if named else f"{words} differ{_s(part)}"
    if setup.schedule != other.schedule:
        yield "the schedule that it followed differs"


def _s(part: str) -> str:
    return "" if part == CASES else "s"


def shared_settings(setup: ArmSetup) -> dict[str, str]:
    """The settings that all arms of one study share: those of data, phantom and split.

    Args:
        setup: Of any of the arms.

    Returns:
        Their texts by name.
    """
    return {
        name: text
        for name, text in setup.settings.items()
        if name.startswith(FIXED) and name not in FREE
    }


def actual_seed(study: Study, trial: Trial) -> int:
    """The seed that a trial was trained with: that of its configuration and its own number.

    Args:
        study: The study.
        trial: One of its trials.

    Returns:
        The seed as logged; where nothing was, as planned.
    """
    if "seed" in trial.params:
        return int(trial.params["seed"])
    base = study.arms[trial.arm].get("seed", study.config.get("seed", 0))
    return int(base) + trial.seed


def _made_with(study: Study, trial: Trial) -> dict[str, str]:
    if trial.made_with:
        return dict(trial.made_with)
    commit = study.environment.get("git commit", "unknown")
    known = commit != "unknown" and not commit.endswith("changes")
    gpu = study.environment.get("gpu", "none")
    return {
        "code": f"commit {commit}" if known else f"unknown code of {study.parent_run_id}",
        "torch": study.environment.get("torch", ""),
        "device": "cpu" if gpu == "none" else gpu,
    }


def as_logged(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as a run's parameters have them: JSON's lists were tuples."""
    return {name: str(_tuples(value)) for name, value in settings.items()}


def _tuples(value: Any) -> Any:
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        return tuple(_tuples(part) for part in value)
    return value
