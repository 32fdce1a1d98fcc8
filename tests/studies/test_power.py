"""Plans: what a study can find, against simulated whole tables and closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from segmamba.errors import UserError
from segmamba.studies.anova import crossed
from segmamba.studies.power import Spreads, least_effect, power, spreads_of
from tests.studies.synthetic import synthetic_study

TYPICAL = Spreads(patient_sd=0.02, rest_sd=0.03)


def test_power_rises_with_the_effect_and_seeds_are_saved():
    table = power(max_seeds=10, patients=250, spreads=TYPICAL)
    assert [row.effect for row in table.rows] == [0.005, 0.01, 0.02, 0.03]
    shares = [row.sequential for row in table.rows]
    assert shares == sorted(shares)
    two = table.rows[2]
    assert 0.92 <= two.sequential <= 0.97 and two.expected_seeds < 7.3
    assert all(row.sequential <= row.fixed + 0.02 for row in table.rows)
    assert table.rows == power(max_seeds=10, patients=250, spreads=TYPICAL).rows


def test_without_an_effect_at_most_the_promised_share_is_supported():
    (row,) = power(max_seeds=8, patients=250, spreads=TYPICAL, effects=[0.0]).rows
    assert row.sequential <= 0.03


@pytest.mark.parametrize(("patients", "folds"), [(60, 1), (60, 3), (6, 1)])
def test_the_fixed_design_has_the_power_of_simulated_whole_tables(patients, folds):
    spreads, seeds, studies = Spreads(), 5, 3000
    rng = np.random.default_rng(0)
    run = rng.normal(0, spreads.seed_sd / folds**0.5, (studies, seeds, 1))
    d = (
        0.03
        + run
        + rng.normal(0, spreads.patient_sd, (studies, 1, patients))
        + rng.normal(0, spreads.rest_sd, (studies, seeds, patients))
    )
    layout = crossed(d)
    found = np.mean((layout.mean > layout.half_width()) & (layout.mean >= 0.005))
    (row,) = power(max_seeds=seeds, patients=patients, folds=folds, effects=[0.03]).rows
    assert row.fixed == pytest.approx(found, abs=0.045)


def test_no_number_of_seeds_finds_less_than_the_least_effect():
    least = least_effect(20, 0.05, 1, 0.005)
    error = 0.05 / math.sqrt(20)
    assert least == pytest.approx(error * (stats.t.ppf(0.975, 19) + stats.t.ppf(0.8, 19)))
    endless = Spreads(seed_sd=0.0, patient_sd=0.05, rest_sd=0.0)
    (row,) = power(max_seeds=15, patients=20, spreads=endless, effects=[least]).rows
    assert row.fixed == pytest.approx(0.8, abs=0.05)
    assert least_effect(10_000, 0.001, 1, 0.005) == pytest.approx(0.005, rel=0.01)
    assert math.isinf(least_effect(1, 0.05, 1, 0.005))


def test_spreads_of_an_earlier_study_are_those_it_was_made_with():
    study = synthetic_study(
        {"a": 0.0, "b": 0.0}, seeds=12, cases=300, seed_sd=0.01, case_sd=0.02, rest_sd=0.03
    )
    spreads = spreads_of(study)
    assert spreads.seed_sd == pytest.approx(0.01 * 2**0.5, rel=0.5)
    assert spreads.patient_sd == pytest.approx(0.02 * 2**0.5, rel=0.15)
    assert spreads.rest_sd == pytest.approx(0.03 * 2**0.5, rel=0.05)
    assert spreads.source == f"measured in {study.name}"
    assert spreads_of(synthetic_study({"a": 0.0, "b": 0.0}, seeds=1)) is None


def test_several_contrasts_cost_power_and_one_patient_has_none():
    one, six = (power(max_seeds=6, patients=100, contrasts=k, effects=[0.02]) for k in (1, 6))
    assert six.rows[0].sequential < one.rows[0].sequential
    nothing = power(max_seeds=6, patients=1)
    assert all(row.sequential == row.fixed == 0 for row in nothing.rows)
    with pytest.raises(UserError, match="--max-seeds 40"):
        power(max_seeds=40, patients=20)
