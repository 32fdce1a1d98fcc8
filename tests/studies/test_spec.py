"""How a study is declared: its names, its arms, and what may vary between them."""

import re

import pytest

from search_spaces import tune_hyperparameters
from segmamba.config import Config, preset
from segmamba.errors import UserError
from segmamba.studies import Budget, Hypothesis, StudySpec, Times
from segmamba.studies.spec import FOUND, resolve


def spec_of(**changes):
    fields = {
        "name": "s",
        "question": "?",
        "hypothesis": Hypothesis(claim="c", better="b", than="a"),
        "baseline": "a",
        "arms": {"a": {}, "b": {"optim.lr": 1e-3}},
    }
    return StudySpec(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "c"}, "the baseline 'c' is no arm"),
        ({"hypothesis": Hypothesis(claim="c", better="b", than="z")}, "'z' is named but is no arm"),
        ({"demo_arms": ("a", "y")}, "'y' is named but is no arm"),
    ],
)
def test_a_study_that_names_an_arm_it_does_not_have_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        spec_of(**changes)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"a": {}, "b": {"optim.lr": 1e-4}}, "the arms 'a' and 'b' of s would be the same"),
        ({"a": {}, "b": {"data.spacing_mm": 2.0}}, "data.spacing_mm may not vary"),
        ({"a": {}, "b": {"optim.lr": -1.0}}, "optim.lr = -1.0"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(arms, message):
    with pytest.raises(UserError, match=message):
        spec_of(arms=arms).configs(Config(), {})


def test_a_setting_of_which_an_arm_has_its_own_value_cannot_be_set_and_a_multiple_needs_a_number():
    arms = {"a": {}, "b": {"optim.lr": Times(2)}, "c": {"optim.lr": 1e-3}}
    with pytest.raises(
        UserError, match=r"--set optim\.lr: .* \(arm 'c' has 0\.001\); leave --set optim\.lr out"
    ):
        spec_of(arms=arms).configs(Config(), {"optim.lr": 1e-4})
    scaled = (
        spec_of(arms=arms)
        .only(("a", "b"), "paper")
        .configs(Config().changed({"optim.lr": 2e-4}), {"optim.lr": 2e-4})
    )
    assert scaled["b"].optim.lr == pytest.approx(4e-4)
    with pytest.raises(
        UserError, match=r"arm 'b' has model\.norm Times\(factor=2\), but 'batch' is no number"
    ):
        spec_of(arms={"a": {}, "b": {"model.norm": Times(2)}}).configs(Config(), {})
    with pytest.raises(UserError, match=r"optim\.ll"):
        spec_of(arms={"a": {}, "b": {"optim.ll": Times(2)}}).configs(Config(), {})


def test_arms_that_differ_in_a_setting_their_network_does_not_read_are_the_same():
    arms = {"a": {"model.mamba_depths": (1, 1, 1)}, "b": {"model.mamba_depths": (2, 2, 2)}}
    spec_of(arms=arms).configs(Config(), {})
    with pytest.raises(UserError, match="segresnet has no Mamba blocks"):
        spec_of(arms=arms).configs(
            Config().changed({"model.name": "segresnet"}), {"model.name": "segresnet"}
        )


def test_trials_are_seeds_by_folds_by_arms_with_names_that_last():
    keys = [plan.key for plan in spec_of().trials((0, 1), (0, 1))]
    assert (
        keys[:3] == ["a, seed 0, fold 0", "b, seed 0, fold 0", "a, seed 0, fold 1"]
        and len(set(keys)) == 8
    )
    assert spec_of(budget=Budget(seeds=3)).trials((0,))[0].key == "a, seed 0"


def test_a_search_has_the_baseline_and_what_it_finds_as_arms():
    spec = resolve(tune_hyperparameters.STUDY, preset("demo"))
    assert list(spec.arms) == ["baseline", FOUND]
    with pytest.raises(
        UserError, match=r"--set optim\.lr: the study tune_hyperparameters searches"
    ):
        spec.configs(preset("demo"), {"optim.lr": 1e-3})


def one_line(error):
    """The message of a UserError, which is a single line."""
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "it is empty"),
        ("a:b", "the character ':' (U+003A)"),  # fails at MLflow's registration
        ("../x", "the character '.' (U+002E)"),
        ("a/b", "the character '/' (U+002F)"),
        ("a b", "the character ' ' (U+0020)"),
        ("a\x00b", r"the character '\x00' (U+0000)"),
        ("tumör", r"the character '\xf6' (U+00F6)"),
        ("-x", "the character '-' (U+002D)"),
        ("it's", 'the character "\'" (U+0027)'),
        ("x\n", r"the character '\n' (U+000A)"),
        ("x" * 101, "the name has 101 characters; shorten it to at most 100"),
    ],
)
def test_a_study_cannot_have_a_name_that_no_folder_or_registry_takes(name, reason):
    with pytest.raises(UserError) as error:
        spec_of(name=name)
    assert one_line(error).startswith(f"study {name!r}: ") and reason in one_line(error)


@pytest.mark.parametrize("name", ["s", "ablate_depth", "v1.2-final", "0", "x" * 100])
def test_a_study_may_have_a_plain_name(name):
    assert spec_of(name=name).name == name


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        ("", "the name is empty; give the arm a name"),
        (" ", "the name is empty; give the arm a name"),
        (" b", "the character ' ' (U+0020) begins or ends the name; leave it out"),
        ("b\u00a0", r"the character '\xa0' (U+00A0) begins or ends the name; leave it out"),
        ("b\x00c", r"the character '\x00' (U+0000) cannot stand in a folder's name"),
        ("b\tc", r"the character '\t' (U+0009) cannot stand in a folder's name"),
        ("b\x1b[31m", r"the character '\x1b' (U+001B) cannot stand in a folder's name"),
        ("b\nc", r"the character '\n' (U+000A) cannot stand in a folder's name"),
        ("b\u2028c", r"the character '\u2028' (U+2028) cannot stand in a folder's name"),
        ("b\ud800", r"the character '\ud800' (U+D800) cannot stand in a folder's name"),
        ("b" * 101, "the name has 101 characters; shorten it to at most 100"),
    ],
)
def test_an_arm_cannot_have_a_name_that_no_folder_or_page_can_carry(arm, reason):
    with pytest.raises(UserError) as error:
        spec_of(arms={"a": {}, "b": {"optim.lr": 1e-3}, arm: {"optim.lr": 1e-4}})
    assert one_line(error).startswith(f"study s: arm {arm!r}: ") and reason in one_line(error)


@pytest.mark.parametrize(
    "arm",
    ["without 90° turns", "all and the field's", "[2, 2, 2]", "1:3", "a/b", "a-b", "$x$", "深さ 4"],
)
def test_an_arm_may_have_any_other_name(arm):
    spec = spec_of(arms={"a": {}, "b": {"optim.lr": 1e-3}, arm: {"optim.lr": 1e-4}})
    assert arm in spec.arms


def test_a_search_checks_the_names_of_its_arms_too():
    with pytest.raises(UserError, match=re.escape("study s: arm 'a\\x00': the character")):
        spec_of(
            baseline="a\0",
            arms={},
            hypothesis=Hypothesis(claim="c", better=FOUND, than="a\0"),
            space={"optim.lr": Times(2)},
        )
