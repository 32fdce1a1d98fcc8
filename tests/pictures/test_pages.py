"""The pages of predictions and of an evaluation, written from files and opened in Chromium."""

import io
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image

from segmamba.data.cases import list_cases
from segmamba.evaluation.evaluate import evaluate
from segmamba.evaluation.page import write_page
from segmamba.evaluation.prediction_page import write_prediction_page
from segmamba.inference.outputs import DONE, FAILED, SKIPPED, Outcome, Outputs
from segmamba.pictures.niivue import niivue_is_installed
from tests.conftest import BRATS_AFFINE, write_case

FILES = ("A", "B", "C")
NAMES = ("<script>", "a|b [bold]x", "\N{BRAIN} & co")
"""What the cases are called on the pages; files cannot have all of these names everywhere."""
WITH_NIIVUE = pytest.mark.skipif(not niivue_is_installed(), reason="no ipyniivue")
WIDTHS = (420, 1000, 1400)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(predictions, truth): the first case is found whole, the second in part, the third not.

    The predictions lie there under both names.
    """
    home = tmp_path_factory.mktemp("pages")
    for folder in ("out", "named"):
        (home / folder).mkdir()
    for number, name in enumerate(FILES):
        case = write_case(home / "data", name, shape=(24, 28, 16))
        values = np.asarray(nibabel.load(case / f"{name}_seg.nii.gz").dataobj).astype(np.uint8)
        values[: (0, 14, 24)[number]] = 0
        written = home / "out" / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, BRATS_AFFINE), written)
        (home / "named" / f"{NAMES[number]}.nii.gz").write_bytes(written.read_bytes())
    return home / "out", home / "data"


@pytest.fixture(scope="module")
def evaluation_page(folders):
    found = evaluate(*folders)
    called = dict(zip(FILES, NAMES, strict=True))
    pairs = [replace(pair, id=called[pair.id]) for pair in found.pairs]
    rows = [row | {"case": called[row["case"]]} for row in found.rows]
    return write_page(folders[0].parent, replace(found, pairs=pairs, rows=rows))


@pytest.fixture(scope="module")
def predictions_page(folders):
    """The page of two cases that were predicted, of one that was skipped and of one that failed."""
    out, data = folders
    called = dict(zip(FILES, NAMES, strict=True))
    cases = [replace(case, id=called[case.id]) for case in list_cases(data, "brats2018")]
    states = dict(zip(NAMES, (DONE, DONE, SKIPPED), strict=True))
    outcomes = [
        Outcome(
            case.id,
            states[case.id],
            labels="brats2018",
            volumes_ml={"ET": 1.5, "TC": 2.5, "WT": 10.0} if states[case.id] == DONE else {},
        )
        for case in cases
    ]
    outcomes.append(Outcome("bad", FAILED, "bad: <img src=x onerror=alert(1)> is damaged"))
    labels = cases[0].label_set
    summary = "one network on cpu"
    return write_prediction_page(
        Outputs(out.parent / "named"), cases, outcomes, summary, labels, phantoms_only=True
    )


def column(opened, number):
    rows = opened.page.locator(".cases-table tbody tr")
    return [row.locator("> *").nth(number).text_content().strip() for row in rows.all()]


def assert_inside_everywhere(shown):
    """Nothing leaves the window at any width, in either scheme or in print."""
    for media in ("screen", "print"):
        for scheme in ("light", "dark"):
            shown.page.emulate_media(media=media, color_scheme=scheme)
            for width in WIDTHS:
                shown.page.set_viewport_size({"width": width, "height": 800})
                assert shown.widest() <= 0, (media, scheme, width)


@WITH_NIIVUE
def test_the_page_of_an_evaluation_works_in_a_browser(evaluation_page, opened):
    shown = opened(evaluation_page).wait()
    assert column(shown, 0) == [NAMES[2], NAMES[1], NAMES[0]] and column(shown, 1)[-1] == "100.0"
    assert shown.page.locator("th[aria-sort=ascending]").text_content() == "Dice"
    shown.page.locator("thead button").filter(has_text="Dice").first.click()
    assert column(shown, 0) == list(NAMES)
    assert shown.page.locator("th[aria-sort=descending]").text_content() == "Dice"
    listed = shown.page.locator(".viewer-list button b").all_text_contents()
    assert listed == ["worst", "median", "best"]
    before = shown.pixels()
    shown.page.locator("[data-view]").first.click()
    shown.wait()
    assert NAMES[0] in shown.page.text_content(".viewer-pane header")
    assert before.std() > 10 and (before != shown.pixels()).any()
    assert_inside_everywhere(shown)
    assert shown.page.locator(".viewer-print").is_visible(), "in print, as it is now"
    assert not shown.page.locator(".viewer").is_visible()
    shown.assert_silent_and_alone()


def test_the_spread_of_the_scores_is_dark_in_the_dark_and_as_large_as_words_on_small_screens(
    evaluation_page, opened
):
    shown = opened(evaluation_page)
    picture = shown.page.locator("figure img")

    def seen(width, scheme, media="screen"):
        shown.page.emulate_media(media=media, color_scheme=scheme)
        shown.page.set_viewport_size({"width": width, "height": 800})
        shown.page.wait_for_function("document.querySelector('figure img').complete")
        drawn = Image.open(io.BytesIO(picture.screenshot())).convert("L")
        return drawn.height / drawn.width, np.median(np.asarray(drawn))

    (wide, white), (narrow, black) = seen(1000, "light"), seen(420, "dark")
    assert wide < 1 < narrow and white > 250 and black < 5
    assert seen(420, "light") == (pytest.approx(narrow, abs=0.02), white)
    assert seen(1000, "dark", "print")[1] == white, "paper is white"


@WITH_NIIVUE
def test_the_page_of_predictions_works_in_a_browser(predictions_page, opened):
    shown = opened(predictions_page).wait()
    assert column(shown, 0) == [NAMES[2], NAMES[1], NAMES[0]], "the worst first, the skipped too"
    text = shown.page.text_content("body")
    assert "bad: <img src=x onerror=alert(1)> is damaged" in text
    assert "embedded phantoms only" in text and "Already there" in text
    assert shown.page.locator(".viewer-list button").count() == 3
    assert "truth" in shown.values() and "prediction" in shown.values()
    assert_inside_everywhere(shown)
    shown.assert_silent_and_alone()


def test_dice_stands_in_the_table_where_the_folder_holds_the_truth(predictions_page, folders):
    scores = evaluate(*folders)
    page = predictions_page.read_text(encoding="utf-8")
    for row in scores.rows:
        if row["rule"] == "brats-legacy":
            assert f'data-name="Dice {row["region"]}" data-value="{row["dice"]}"' in page
    assert "&lt;script&gt;" in page and "<script></" not in page and "a|b [bold]x" in page


def test_a_truth_that_is_damaged_absent_or_elsewhere_is_left_out(folders, tmp_path):
    out, data = folders
    cases = list_cases(data, "brats2018")
    outputs = Outputs(tmp_path)
    for case in cases:
        (tmp_path / f"{case.id}.nii.gz").write_bytes((out / f"{case.id}.nii.gz").read_bytes())
    damaged = tmp_path / "damaged.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((24, 28, 16), 77, np.uint8), BRATS_AFFINE), damaged)
    moved = tmp_path / "moved.nii.gz"
    elsewhere = BRATS_AFFINE.copy()
    elsewhere[0, 3] += 5
    nibabel.save(nibabel.Nifti1Image(np.zeros((24, 28, 16), np.uint8), elsewhere), moved)
    cases = [replace(cases[0], label=damaged), replace(cases[1], label=None), cases[2]]
    cases.append(replace(cases[0], id="D", label=moved))
    (tmp_path / "D.nii.gz").write_bytes((tmp_path / "A.nii.gz").read_bytes())
    outcomes = [Outcome(case.id, DONE, labels="brats2018") for case in cases]
    page = write_prediction_page(
        outputs, cases, outcomes, "one network", cases[2].label_set, phantoms_only=False
    ).read_text(encoding="utf-8")
    assert page.count('data-name="Dice" data-value=""') == 3 and "embedded phantoms" not in page
