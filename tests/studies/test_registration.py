"""A claim is stamped, and an edit of it is seen."""

import dataclasses

import pytest

from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.registration import Registration, changes_of_claim, claims_digest

CLAIM = Hypothesis(claim="It helps.", region="WT", better="b", than="a", margin=0.01)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"claim": "It hurts."}, "the claim read 'It helps.'"),
        ({"region": ("WT", "ET")}, "the region was WT and is WT and ET"),
        ({"margin": 0.005}, "the margin was 1.0 Dice points and is 0.5 Dice points"),
        ({"direction": "alike"}, "the direction was 'better' and is 'alike'"),
        ({"better": "c"}, "the contrasts were b \N{MINUS SIGN} a"),
        ({"metric": "hd95", "margin": 1.0}, "the margin was 1.0 Dice points and is 1.0 mm"),
    ],
)
def test_every_edit_of_what_decides_changes_the_digest_and_is_named(edit, words):
    edited = dataclasses.replace(CLAIM, **edit)
    assert claims_digest([edited]) != claims_digest([CLAIM])
    assert words in "; ".join(changes_of_claim(CLAIM, edited))


def test_the_same_claim_has_the_same_digest_however_it_is_written():
    other = Hypothesis(claim="It helps.", region=("WT",), contrasts=(("b", "a"),), margin=0.01)
    assert claims_digest([other]) == claims_digest([CLAIM])
    assert not list(changes_of_claim(CLAIM, other))
    assert claims_digest([CLAIM, other]) != claims_digest([CLAIM])


def test_the_sentence_says_whether_the_claim_came_first_and_what_changed():
    first = Registration(sha256="ab" * 32, written_at=1795860000.0, trials=6)
    assert first.before_trials and first.sentence == (
        "Pre-registered: claim, region, margin and direction were written on 2026-11-28 10:00 UTC "
        "(sha256 abababababab), before the first trial ended."
    )
    late = dataclasses.replace(first, ended_before=4, changed=("In x_Run01, the margin was 1.",))
    assert late.sentence == (
        "Not pre-registered: 4 of 6 trials had ended when the claim was written on 2026-11-28 "
        "10:00 UTC (sha256 abababababab). In x_Run01, the margin was 1."
    )
