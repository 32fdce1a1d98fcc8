"""Which names a study and its arms may have, and which arms look like one."""

import pytest

from segmamba.errors import UserError
from segmamba.studies import Budget, Hypothesis, StudySpec
from segmamba.studies.names import check_arm_name, check_arms_apart, check_study_name


def declared(name="mine", arms=("low", "high"), better=None):
    low, high = arms
    return StudySpec(
        name=name,
        question="Which?",
        baseline=low,
        budget=Budget(seeds=1),
        hypothesis=Hypothesis(claim="High.", better=better or high, than=low),
        arms={low: {}, high: {"optim.lr": 1e-2}},
    )


@pytest.mark.parametrize(
    "name",
    ["CON", "nul", "Com1", "lpt9.txt", "aux.2", "a.", "..", "a/b", "../x", "a:b", "a b", "a\0b", ""]
    + ["-rf", ".hidden", "a" * 101, "\u200b", "\u202eabc", "é"],
)
def test_a_name_that_no_folder_model_or_filter_takes_is_refused_when_the_study_is_declared(name):
    with pytest.raises(UserError, match=r"^study "):
        declared(name)


@pytest.mark.parametrize("name", ["control", "null", "com10", "a.b-c_d", "2", "a" * 100])
def test_names_like_those_are_taken(name):
    check_study_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "\u200b",
        "\u202e",
        "\u200d\u200c",
        "\u3164",
        "\u2800",
        "\u0301",
        "\ufeff",
        "a\u00adb",
    ]
    + [
        "\u202ereversed",
        "a\u2066b",
        "a\nb",
        "a\x1b[31mb",
        "a\u2028b",
        "a\ud800b",
        "a\0b",
        " a",
        "a ",
    ]
    + ["\u00a0a", "a\u3000", "a" * 101],
)
def test_an_arm_that_cannot_be_seen_or_shown_is_refused_when_the_study_is_declared(name):
    with pytest.raises(UserError, match=r"^study mine: arm ") as refused:
        declared(arms=("low", name))
    assert refused.value.args[0].isprintable() or name in ("",)


@pytest.mark.parametrize(
    "name",
    ["it's", "[/bold]x", "../x", "a:b", "höher", "上", "\u0646\u0645\u06cc\u200c\u062e", "½", "2."],
)
def test_arms_of_any_script_are_taken(name):
    check_arm_name(name, "mine")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Depth 2", "depth 2"),
        ("h\u00f6her", "ho\u0308her"),
        ("H\u00d6HER", "ho\u0308her"),
        ("stra\u00dfe", "STRASSE"),
        ("a\u200db", "ab"),
        ("depth  2", "depth 2"),
    ],
)
def test_arms_that_look_like_one_are_refused(one, other):
    with pytest.raises(UserError, match="differ only in capital letters or in how") as refused:
        declared(arms=(one, other))
    assert str(refused.value).isascii(), "how they differ is seen"
    check_arms_apart([one, one + "2", "x\u00b2", "x2"], "mine")


def test_an_arm_is_found_however_a_keyboard_writes_it():
    spec = declared(arms=("low", "h\u00f6her"))
    assert list(spec.only(["low", "ho\u0308her"], "demo").arms) == ["low", "h\u00f6her"]
    with pytest.raises(UserError, match=r"it is .* here, with other characters there"):
        declared(arms=("low", "h\u00f6her"), better="ho\u0308her")
