"""MLflow's own pages of a study, from a real server, as Chromium shows them."""

from dataclasses import replace

import pytest
from PIL import Image

from docs.draw_pictures import mlflow_server
from segmamba.orchestration.tracking.experiment_page import ARMS_VIEW, runs_address
from segmamba.orchestration.tracking.run_log import RunLog
from segmamba.orchestration.tracking.store import open_store
from tests.orchestration.mlflow_study import arm_runs, concluded
from tests.pictures.browser import browser  # noqa: F401  a fixture
from tests.studies.synthetic import synthetic_study

pytestmark = pytest.mark.slow  # a server and a browser; test_experiment_page.py is the fast part
NAMES = ("<script>alert(1)</script>", "[/bold]x", "a|b", "🧠 depth")


@pytest.fixture(scope="module")
def served(browser, tmp_path_factory):  # noqa: F811
    """(Store at its server, StudyRun) of a study whose arms have NAMES."""
    results = tmp_path_factory.mktemp("Results")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = open_store(results)
    effects = {"control": 0.0} | dict.fromkeys(NAMES, 0.02)
    study = synthetic_study(effects, seeds=2, cases=4, epochs=3, phantom=True)
    run, _ = concluded(store, study, results / "ablate_depth_Run01")
    _log_pictures(store, run.children()[0].info.run_id, results)
    with mlflow_server(store.uri, results) as uri:
        yield replace(store, uri=uri), run


def _log_pictures(store, run_id, folder):
    log = RunLog(store, lambda: run_id, "phantom")
    for epoch in (1, 2, 3):
        path = folder / f"{epoch}.png"
        Image.new("RGB", (160, 120), (60 * epoch, 0, 0)).save(path)
        log.log_picture(path, "val_predictions", epoch)
    assert log.close(30), log.away_because


@pytest.fixture
def page(browser):  # noqa: F811
    """A page of a reader who has never been there; a dialog or an error in it fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    opened, said = context.new_page(), []
    opened.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    context.close()
    assert not said


def test_the_experiment_opens_on_training_runs_with_scores_and_names_as_they_are(served, page):
    store, _ = served
    page.goto(store.page)
    page.locator(".ag-row", has_text="ablate_depth_Run01").first.wait_for(timeout=30_000)
    shown = page.locator("body").inner_text()
    assert "Model registry" in shown and "Evaluation runs" not in shown
    page.locator(".ag-row [role=button], .ag-row button").first.click()
    page.locator(".ag-row", has_text="control, 2 seeds").first.wait_for()
    columns = page.locator(".ag-header-cell").all_inner_texts()
    assert {"test/dice_mean", "arm", "answer"} <= {name.strip() for name in columns}
    rows = page.locator(".ag-row").all_inner_texts()
    for name in NAMES:
        assert any(f"{name}, 2 seeds" in row.replace("\n", " ") for row in rows), (name, rows)


def test_the_arms_are_compared_in_charts(served, page):
    store, run = served
    page.goto(runs_address(store.uri, store.experiment_id, ARMS_VIEW))
    page.get_by_text("test/dice_ET").first.wait_for(timeout=30_000)
    shown = page.locator(".ag-row", has_text=" in ablate_depth_Run01")
    for arm in ("control", *NAMES):
        shown.filter(has_text=f"{arm} in ").first.wait_for()
    groups = shown.all_inner_texts()
    assert len(groups) == len(arm_runs(store, run)) == 1 + len(NAMES)


def test_the_studys_page_leads_with_the_verdict_and_shows_names_as_they_are(served, page):
    store, run = served
    page.goto(f"{store.page.partition('/runs')[0]}/runs/{run.run_id}")
    page.get_by_text("How deep should the Mamba stages be?").first.wait_for(timeout=30_000)
    page.get_by_role("button", name="Expand description").click()
    description = page.locator("table", has_text="95 % interval")
    rows = description.locator("tbody tr").all_inner_texts()
    assert len(rows) == 1 + len(NAMES), "a table, not its source"
    for name, row in zip(("control (baseline)", *NAMES), rows, strict=True):
        assert row.startswith(name), row
    assert "Undecided" in page.locator("body").inner_text()


def test_the_pictures_of_epochs_have_a_slider(served, page):
    store, run = served
    trial = run.children()[0].info.run_id
    page.goto(
        f"{store.page.partition('/runs')[0]}/runs/{trial}/model-metrics"
        "?workflowType=machine_learning"
    )
    page.get_by_placeholder("Search metric charts").fill("val_pred", timeout=30_000)
    page.get_by_text("val_predictions").first.wait_for()
    slider = page.get_by_role("slider").first
    slider.wait_for()
    assert (slider.get_attribute("aria-valuemin"), slider.get_attribute("aria-valuemax")) == (
        "1",
        "3",
    )
