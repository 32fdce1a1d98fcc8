"""A study as it is stored and read back."""

import dataclasses
import json
import subprocess
import sys

import pytest

from segmamba.errors import UserError
from segmamba.studies.hypothesis import Hypothesis, Trend
from segmamba.studies.results import CaseSets, study_from
from tests.studies.synthetic import synthetic_study


@pytest.fixture
def study():
    """A study with everything that JSON changes: tuples, folds, claims, data."""
    made = synthetic_study(seeds=2, cases=2, epochs=1)
    sets = (CaseSets(train=("a",), validation=("b",), test=("c",)), CaseSets(train=("d",)))
    return dataclasses.replace(
        made,
        folds=(0, 1),
        data=dataclasses.replace(made.data, folds=sets),
        secondary=(
            Hypothesis(claim="c", better="depth 1", than="depth 0"),
            Hypothesis(claim="d", contrasts=(Trend({"depth 0": 0, "depth 1": 1}),)),
        ),
        resource_plan={"study_s": 7200.0},
        trials=(),
    )


def stored(study):
    """The study's dict as MLflow's artifact holds it: without what is read from the runs."""
    record = json.loads(json.dumps(dataclasses.asdict(study)))
    for name in ("trials", "searched", "importance", "schedule"):
        del record[name]
    return record


def test_a_study_comes_back_from_json_as_it_was(study):
    again = study_from(stored(study), trials=())
    arms = {arm: {"model.mamba_depths": [i] * 3} for i, arm in enumerate(study.arms)}
    config = {n: list(v) if isinstance(v, tuple) else v for n, v in study.config.items()}
    assert again == dataclasses.replace(study, arms=arms, config=config)


def test_what_has_changed_since_takes_the_place_of_what_was_stored(study):
    again = study_from(stored(study), trials=(), seconds=1.5, starts=2)
    assert (again.seconds, again.starts) == (1.5, 2)


def test_a_plan_of_resources_is_read_under_its_earlier_name(study):
    record = stored(study)
    record["budget"] = record.pop("resource_plan")
    del record["starts"]
    again = study_from(record, trials=())
    assert again.resource_plan == {"study_s": 7200.0} and again.starts == 1


@pytest.mark.parametrize("left", [{"train"}, {"train", "validation"}, {"train", "test"}])
def test_a_study_of_a_version_before_0_2_is_refused_in_one_line(study, left):
    record = stored(study)
    sets = {"train", "validation", "test"}
    data = {n: v for n, v in record["data"].items() if n not in sets or n in left}
    with pytest.raises(UserError) as error:
        study_from(record | {"data": data}, trials=())
    message = str(error.value)
    assert message.startswith("study ablate_depth_Run01: ") and "\n" not in message
    assert "before 0.2" in message and "read it with that version" in message


def test_declaring_a_study_imports_nothing_heavy():
    code = (
        "import sys, segmamba.studies\n"
        "heavy = {'torch', 'ray', 'mlflow', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
