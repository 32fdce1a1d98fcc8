"""Every command that README and the documentation show is run as a process, in one tiny folder.

tests/docs/workspace.py makes the folder and says what is not run, and why. The presets are made
tiny there, so that a command is run with the options that the page gives it. A new command on a
page is found by reading the page; nothing needs to be entered anywhere.
"""

import re

import pytest

from tests.docs.test_commands import ALL, COVERED, ROOT, check
from tests.docs.workspace import (
    LIMIT_S,
    NOT_RUN,
    Workspace,
    python_blocks,
    reason_not_to_run,
)


def only_named(words, whole):
    """Whether words in a sentence name a command without the options that it requires."""
    try:
        check(words)
    except Exception as error:
        return not whole and type(error).__name__ == "MissingParameter"
    return False


SHOWN = {
    " ".join(shown.words): shown
    for shown in sorted(ALL, key=lambda shown: shown.whole)
    if shown.page == "README.md" or shown.page.startswith("docs/")
}
RUN = {
    text: shown
    for text, shown in SHOWN.items()
    if not reason_not_to_run(text) and not only_named(shown.words, shown.whole)
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = Workspace(tmp_path_factory.mktemp("docs"))
    tutorial = python_blocks((ROOT / "docs" / "tutorial.md").read_text())
    made.make(next(block for block in tutorial if "STUDY" in block))
    return made


@pytest.mark.slow
@pytest.mark.timeout(6 * LIMIT_S)  # the first one makes the folder
@pytest.mark.parametrize("text", RUN, ids=str)
def test_a_command_does_what_the_page_says_it_does_without_an_error(workspace, text):
    workspace.run_shown(RUN[text].words)


def test_every_command_is_run_or_has_a_reason_that_is_still_needed():
    assert len(RUN) > 80, "the pages are read"
    for start in NOT_RUN:
        assert any(text.startswith(start) for text in SHOWN), f"{start}: no page shows it any more"
    programs = {text.split()[0] for text in RUN}
    assert programs == {"make", "python", "segmamba", "mlflow"}
    left = {text for text in SHOWN if text not in RUN and not reason_not_to_run(text)}
    whole = [text for text in left if SHOWN[text].whole]
    assert not whole, "a command of a block is run or has a reason"


def test_words_that_only_name_a_command_are_run_whole_somewhere_else():
    run = {" ".join(text.split()[:2]) for text in RUN} | {
        key for key in COVERED if key.startswith("segmamba")
    }
    for text, shown in SHOWN.items():
        if only_named(shown.words, shown.whole):
            assert re.sub(r" (--html|A|STUDY).*", "", " ".join(text.split()[:2])) in run, text
