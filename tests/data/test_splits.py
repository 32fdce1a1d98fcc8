from dataclasses import dataclass

import pytest

from segmamba.config import DataConfig
from segmamba.data.splits import split_cases
from segmamba.errors import UserError


@dataclass(frozen=True)
class Person:
    id: str
    patient: str


def people(count, scans=1):
    return [Person(f"P{p:03d}-{s}", f"P{p:03d}") for p in range(count) for s in range(scans)]


def test_no_patient_is_in_two_sets():
    data = split_cases(people(30, scans=2), DataConfig())
    sets = [{case.patient for case in group} for group in (data.train, data.minival, data.judge)]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert sum(map(len, sets)) == 30 and not data.judge_is_minival


def test_the_split_depends_on_its_seed_and_not_on_the_order_of_cases():
    cases = people(30)
    assert split_cases(cases, DataConfig()) == split_cases(cases[::-1], DataConfig())
    assert split_cases(cases, DataConfig()) != split_cases(cases, DataConfig(split_seed=1))


def test_minival_is_capped_and_says_so():
    data = split_cases(people(400), DataConfig())
    assert len(data.minival) == 20
    assert any("minival is capped at 20 of its 60 cases" in note for note in data.notes)


def test_with_three_patients_the_judge_set_is_minival_and_says_so():
    data = split_cases(people(3), DataConfig())
    assert data.judge_is_minival and data.judge == data.minival and len(data.train) == 2
    assert "the last one is judged" in data.notes[0]


@pytest.mark.parametrize("count", range(2, 12))
def test_every_set_has_someone(count):
    data = split_cases(people(count), DataConfig())
    assert data.train and data.minival and data.judge


def test_one_patient_is_too_few():
    with pytest.raises(UserError, match="at least 2"):
        split_cases(people(1, scans=4), DataConfig())
