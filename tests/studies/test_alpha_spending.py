"""The levels of the looks: against published boundaries, and against what they promise."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from segmamba.errors import UserError
from segmamba.studies.alpha_spending import (
    CONTRASTS,
    FIRST_LOOK,
    MAX_SEEDS,
    holm_of_looks,
    level,
    repeated_p,
    spending_power,
)
from segmamba.studies.anova import holm


@pytest.fixture(scope="module")
def maker(load_benchmark):
    return load_benchmark("alpha_spending")


def test_boundaries_agree_with_the_published_ones_of_obrien_fleming_spending(maker):
    # Five equal looks, one-sided 0.025: Lan and DeMets (1983), as gsDesign's sfLDOF gives them.
    times = np.arange(1, 6) / 5
    spent = 2 * ndtr(ndtri(0.0125) / np.sqrt(times))
    assert maker.boundaries(times.tolist(), spent.tolist()) == pytest.approx(
        [4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=1e-3
    )


def test_boundaries_agree_with_rpact_on_power_family_spending(maker):
    # rpact's own test of getDesignInverseNormal(typeOfDesign="asKD", gammaA=2.2), one-sided 0.03.
    times = [0.3, 0.7, 1.0]
    spent = [0.03 * t**2.2 for t in times]
    assert maker.boundaries(times, spent) == pytest.approx(
        [2.8594012, 2.2435708, 1.9735737], abs=1e-6
    )


def test_power_two_spending_has_the_sizes_of_jennison_and_turnbull(maker):
    # Ten equal looks, two-sided 0.05, power 0.8, rho 2: the maximum sample is 108.1 % of the fixed
    # one, the expected ones at 0, 0.5, 1 and 1.5 times the effect are 106.6, 99.7, 76.2 and 51.0 %
    # (Jennison and Turnbull 2000, chapter 7; gsDesign's test.JT.Power.symm).
    times = np.arange(1, 11) / 10
    z = maker.boundaries(times.tolist(), (0.025 * times**2).tolist())

    def reached(drift):
        """P(each look is the first at or above z), by the density of those that go on."""
        points, weights = np.polynomial.legendre.leggauss(150)
        grid, mass, found, before = np.zeros(1), np.ones(1), [], 0.0
        for t, bound in zip(times, z * np.sqrt(times), strict=True):
            step, move = math.sqrt(t - before), drift * (t - before)
            crossing_low = mass @ ndtr((-bound - grid - move) / step)
            found.append(mass @ ndtr((grid + move - bound) / step) + crossing_low)
            nodes = bound * points
            kernel = np.exp(-0.5 * ((nodes[:, None] - grid - move) / step) ** 2)
            density = kernel @ mass / (step * math.sqrt(2 * math.pi))
            grid, mass, before = nodes, density * weights * bound, t
        return np.array(found)

    drift = brentq(lambda value: reached(value).sum() - 0.8, 2, 4)
    fixed = ndtri(0.975) + ndtri(0.8)
    largest = (drift / fixed) ** 2
    assert 100 * largest == pytest.approx(108.1, abs=0.1)
    for share, expected in ((0, 106.6), (0.5, 99.7), (1, 76.2), (1.5, 51.0)):
        first = reached(share * drift)
        mean = (first * times).sum() + (1 - first.sum())
        assert 100 * largest * mean == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("max_seeds", "contrasts"), [(4, 1), (10, 1), (10, 6), (15, 3)])
def test_the_stored_levels_are_those_of_the_recursion_times_one_factor(maker, max_seeds, contrasts):
    normal = 2 * maker.normal_levels(max_seeds, contrasts)
    stored = [level(max_seeds, n, contrasts) for n in range(FIRST_LOOK, max_seeds + 1)]
    factor = np.array(stored) / normal
    assert factor == pytest.approx(factor[0], rel=1e-3)
    assert 0.7 < factor[0] < 1
    first = 0.05 / contrasts * (FIRST_LOOK / max_seeds) ** spending_power(max_seeds)
    assert normal[0] == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize(("max_seeds", "contrasts"), [(4, 1), (10, 1), (10, 3), (15, 1)])
def test_t_tests_at_these_levels_spend_what_they_may(maker, max_seeds, contrasts):
    paths = 200_000
    p = maker.t_paths(np.random.default_rng(1), paths)[:, : max_seeds - 2]
    levels = [level(max_seeds, n, contrasts) for n in range(FIRST_LOOK, max_seeds + 1)]
    crossed = float((2 * p <= levels).any(1).mean())
    promised = 0.025 / contrasts
    assert crossed == pytest.approx(promised, abs=4 * math.sqrt(promised / paths))


def test_levels_rise_with_the_seeds_and_fall_with_the_contrasts():
    for max_seeds, k in itertools.product(MAX_SEEDS, CONTRASTS):
        row = [level(max_seeds, n, k) for n in range(FIRST_LOOK, max_seeds + 1)]
        assert row == sorted(row) and row[-1] < 0.05 / k
    for n, (few, many) in itertools.product(range(3, 11), itertools.pairwise(CONTRASTS)):
        assert level(10, n, few) > level(10, n, many)


def test_a_number_of_contrasts_outside_the_table_takes_the_next_larger_ones_levels():
    assert level(10, 5, 22) == level(10, 5, 24) < level(10, 5, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 3, 1), "--max-seeds 3: .* 4 to 15"),
        ((16, 3, 1), "--max-seeds 16"),
        ((10, 2, 1), "after 2 of 10 seeds"),
        ((10, 11, 1), "after 11 of 10 seeds"),
        ((10, 5, 101), "101 contrasts"),
    ],
)
def test_a_look_that_the_table_does_not_know_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        level(*arguments)


def test_the_repeated_p_reaches_five_percent_where_the_level_does():
    at = level(10, 6)
    assert repeated_p(at, 10, 6) == pytest.approx(0.05)
    assert repeated_p(0.9, 10, 6) == 1.0
    assert math.isnan(repeated_p(0.001, 10, 2))


def test_holm_of_looks_rejects_exactly_what_the_levels_reject_step_by_step():
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(200):
        raw, seeds = rng.uniform(0, 0.02, 4), rng.integers(3, 11, 4).tolist()
        p = [repeated_p(float(value), 10, n) for value, n in zip(raw, seeds, strict=True)]
        adjusted = holm_of_looks(p, 10, seeds)
        left, rejected = set(range(4)), set()
        for i in np.argsort(p, kind="stable"):
            if raw[i] > level(10, seeds[i], len(left)):
                break
            left.remove(i)
            rejected.add(i)
        assert {i for i in range(4) if adjusted[i] <= 0.05 + 1e-12} == rejected
        changed += adjusted != holm(p)
    assert changed, "the levels of several contrasts are not just shares of the one's"
    assert math.isnan(holm_of_looks([0.01, math.nan], 10, [5, 5])[1])
