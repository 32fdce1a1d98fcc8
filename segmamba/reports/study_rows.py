"""Rows of a report about its study: the plan and what it took, the settings, the sets of cases."""

from typing import Any

from segmamba.reports.difference_rows import estimate_and_interval
from segmamba.reports.pages import plain
from segmamba.reports.tables import duration
from segmamba.reports.trial_rows import settings_as_text
from segmamba.studies.contrasts import contrast_difference
from segmamba.studies.results import Study, StudyData
from segmamba.studies.spec import FOUND, Changes
from segmamba.studies.words import DASH


def planned_rows(study: Study) -> dict[str, Any]:
    """The time that was planned beside the time it took.

    Args:
        study: The study.

    Returns:
        "why" the plan is as it is and "rows": the study and, for each arm, the training of a trial;
        {} where nothing was measured before.
    """
    plan = study.resource_plan
    if not plan.get("study_s"):
        return {}
    rows = [
        {
            "what": "the study",
            "planned": duration(plan["study_s"]),
            "took": duration(study.seconds),
        }
    ]
    for arm, cost in plan["arms"].items():
        took = [
            t.metrics["time/train_total_s"]
            for t in study.trials
            if t.arm == arm and "time/train_total_s" in t.metrics
        ]
        rows.append(
            {
                "what": f"{arm}, training a trial",
                "planned": duration(cost["train_s"]),
                "took": duration(sum(took) / len(took) if took else None),
            }
        )
    return {"why": plan["why"], "rows": rows}


def last_checkpoint_rows(study: Study) -> list[dict[str, Any]]:
    """The question's contrasts with the last epoch's weights, where these were tested.

    Args:
        study: The study.

    Returns:
        The contrast and its estimate with its interval, each.
    """
    claim = study.hypothesis
    differences = [
        contrast_difference(study, contrast, claim.regions[0], f"last_{claim.score}")
        for contrast in claim.contrasts
    ]
    return [{"contrast": d.label, "cell": estimate_and_interval(d)} for d in differences if d.cases]


def set_ids(data: StudyData) -> dict[str, list[str]]:
    """The case ids of the study's sets, for each fold where there are folds.

    Args:
        data: The study's data.

    Returns:
        The ids by the name of their set.
    """
    if data.folds:
        return {
            f"fold {number}, {name}": list(cases)
            for number, sets in enumerate(data.folds)
            for name, cases in sets.by_name.items()
        }
    return {name: list(cases) for name, cases in data.by_name.items()}


def varied_settings(study: Study) -> dict[str, dict[str, str]]:
    """What differs between arms.

    These are the settings that the arms declare, and those that differ in their trials' parameters.

    Args:
        study: The study.

    Returns:
        Setting to the value that each arm has, as text.
    """
    params: dict[str, dict[str, str]] = {
        arm: next((t.params for t in study.trials if t.arm == arm and t.params), {})
        for arm in study.arms
    }
    declared = dict.fromkeys(name for changes in study.arms.values() for name in changes)
    logged = dict.fromkeys(name for p in params.values() for name in p if name != "seed")
    differing = [
        name for name in logged if len({p[name] for p in params.values() if name in p}) > 1
    ]
    stages = [settings_as_text(stage["changes"]) for stage in study.schedule]
    scheduled = {
        (FOUND, name): " then ".join(dict.fromkeys(stage[name] for stage in stages))
        for name in study.space
        if stages
    }

    def value(name: str, arm: str, changes: Changes) -> str:
        return scheduled.get((arm, name)) or plain(
            changes.get(name, params[arm].get(name, study.config.get(name, DASH)))
        )

    return {
        name: {arm: value(name, arm, changes) for arm, changes in study.arms.items()}
        for name in dict.fromkeys([*declared, *differing])
    }
