"""The picture of the looks shows their numbers."""

import dataclasses

import pytest

from segmamba.reports.figures import draw_all
from segmamba.reports.look_figures import critical_means, draw_looks
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.sequential import first_seeds, take_look
from tests.studies.synthetic import synthetic_study


def looked_at(effects, seeds, *, direction="better", max_seeds=6):
    claim = Hypothesis(
        claim="c",
        region="WT",
        contrasts=tuple((arm, "a") for arm in effects if arm != "a"),
        direction=direction,
    )
    study = synthetic_study(effects, seeds=max_seeds, epochs=1, seed_sd=0.008, cases=60)
    study = dataclasses.replace(study, hypothesis=claim, max_seeds=max_seeds)
    looks = []
    for n in range(3, seeds + 1):
        looks.append(take_look(study, claim, n, looks))
    return dataclasses.replace(first_seeds(study, seeds), looks=tuple(looks))


def test_every_contrast_has_a_panel_with_its_estimates_and_boundaries():
    study = looked_at({"a": 0.0, "b": 0.01, "c": 0.0, "d": 0.0, "e": 0.0}, 5)
    figure = draw_looks(study)
    panels = [panel for panel in figure.axes if panel.axison]
    assert len(panels) == 4
    for panel, last in zip(panels, study.looks[-1].contrasts, strict=True):
        assert panel.get_title().startswith(f"{last.arm} \N{MINUS SIGN} a")
        assert f"after {last.seeds} seeds" in panel.get_title()
        course = {c.seeds: c for look in study.looks for c in look.contrasts if c.key == last.key}
        drawn = [
            (line.get_xdata()[0], pytest.approx(line.get_ydata()[0]))
            for line in panel.lines
            if line.get_marker() in ("o", "D")
        ]
        assert drawn == [(n, 100 * c.mean) for n, c in course.items()]
        black = [line.get_ydata()[0] for line in panel.lines if line.get_zorder() == 5]
        low, high = panel.get_ylim()
        expected = [100 * v for c in course.values() for v in critical_means(c, study.hypothesis)]
        assert black == pytest.approx([v for v in expected if low <= v <= high])


def test_a_claim_of_likeness_has_boundaries_on_both_sides():
    study = looked_at({"a": 0.0, "b": 0.0}, 3, direction="alike")
    (contrast,) = study.looks[0].contrasts
    up, down = critical_means(contrast, study.hypothesis)
    assert up == -down == pytest.approx(0.005 + contrast.boundary)


def test_a_stopped_contrast_ends_at_its_own_look_with_a_filled_mark():
    study = looked_at({"a": 0.0, "b": 0.006, "c": -0.2}, 4)
    below = study.looks[-1].contrasts[1]
    assert (below.state, below.seeds) == ("below", 3)
    panel = draw_looks(study).axes[1]
    assert [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "D"] == [3]
    assert "below the margin after 3 seeds" in panel.get_title()


def test_a_study_of_fixed_seeds_has_no_such_picture_and_others_have(make_study):
    assert draw_looks(make_study()) is None
    assert "looks" not in draw_all(make_study())
    assert "looks" in draw_all(looked_at({"a": 0.0, "b": 0.01}, 3))
