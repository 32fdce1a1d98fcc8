"""The run of an arm in MLflow: its figures, one for each arm whatever happens, and no trial."""

import dataclasses
import statistics

import pytest

from segmamba.errors import UserError
from segmamba.orchestration.listing import list_studies
from segmamba.orchestration.reproduce import reproduce_run
from segmamba.orchestration.tracking import study_answer
from segmamba.orchestration.tracking.arm_runs import log_arms
from segmamba.orchestration.tracking.reuse import finished_runs
from segmamba.orchestration.tracking.store import Store, open_store
from segmamba.orchestration.tracking.study_answer import log_answer
from segmamba.orchestration.tracking.study_reader import find_study, read_study, unfinished_study
from segmamba.studies.arm_means import mean_interval
from segmamba.studies.champion import best_tested
from segmamba.studies.looks import Look
from segmamba.studies.scores import seed_scores
from segmamba.training.run_folder import next_run_folder
from tests.orchestration.mlflow_study import add_trials, arm_runs, begin, conclude, concluded
from tests.studies.synthetic import synthetic_study

EFFECTS = {"depth 0": 0.0, "depth 2": 0.03}
SMALL = {"cases": 4, "epochs": 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(Store, results): one for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        results = tmp_path_factory.mktemp("Results")
        yield open_store(results), results


@pytest.fixture(scope="module")
def whole(store):
    """(StudyRun, Study) of two arms with three seeds each."""
    folder = next_run_folder(store[1], "ablate_depth")
    return concluded(store[0], synthetic_study(EFFECTS, seeds=3, **SMALL), folder)


def test_an_arm_has_the_mean_spread_and_interval_of_the_report(store, whole):
    run, study = whole
    runs = arm_runs(store[0], run)
    assert set(runs) == set(EFFECTS)
    for arm, one in runs.items():
        metrics = one.data.metrics
        for region in ("ET", "TC", "WT", "mean"):
            scores = list(seed_scores(study, arm, f"dice_{region}").values())
            low, high = mean_interval(study, arm, f"dice_{region}")
            assert metrics[f"test/dice_{region}"] == pytest.approx(statistics.fmean(scores))
            assert metrics[f"test_sd/dice_{region}"] == pytest.approx(statistics.stdev(scores))
            assert metrics[f"test_low/dice_{region}"] == pytest.approx(low)
            assert metrics[f"test_high/dice_{region}"] == pytest.approx(high)
        assert one.info.run_name == f"{arm}, 3 seeds"
        assert one.info.status == "FINISHED" and one.data.tags["seeds"] == "0, 1, 2"
    depths = {arm: one.data.params["model.mamba_depths"] for arm, one in runs.items()}
    assert depths == {"depth 0": "(0, 0, 0)", "depth 2": "(1, 1, 1)"}


def test_an_arms_curve_is_the_mean_of_its_seeds_with_each_epoch_once(store, whole):
    run, study = whole
    for arm, one in arm_runs(store[0], run).items():
        courses = [dict(t.history["val/dice_mean"]) for t in study.trials if t.arm == arm]
        for name, of in (
            ("val/dice_mean", statistics.fmean),
            ("val_sd/dice_mean", statistics.stdev),
        ):
            history = store[0].client.get_metric_history(one.info.run_id, name)
            assert [metric.step for metric in history] == [1, 2, 3]
            for metric in history:
                values = [course[metric.step] for course in courses]
                assert metric.value == pytest.approx(of(values))


def test_an_arm_is_no_trial_for_whatever_reads_the_study(store, whole):
    run, study = whole
    assert len(run.children()) == len(study.trials) == 6
    again = read_study(run)
    assert again.trials == study.trials and not again.searched
    (row,) = [row for row in list_studies(store[1]) if row["study"] == study.name]
    assert row["trials"] == row["finished"] == 6
    arm = arm_runs(store[0], run)["depth 2"]
    assert best_tested(again).run_id in {t.run_id for t in study.trials}
    assert not finished_runs(store[0], {arm.data.tags.get("trial_digest", "none")})
    with pytest.raises(UserError, match="no study"):
        find_study(store[0], arm.info.run_id)


def test_reproducing_the_run_of_an_arm_is_refused_in_one_line(store, whole):
    arm = arm_runs(store[0], whole[0])["depth 2"]
    with pytest.raises(UserError, match="the run of an arm, which trained nothing"):
        reproduce_run(arm.info.run_id, None, "cpu", store[1], None)


def test_a_second_end_of_the_same_study_writes_no_second_run(store, whole):
    run, study = whole
    before = {arm: one.info.run_id for arm, one in arm_runs(store[0], run).items()}
    log_arms(run, study)
    assert {arm: one.info.run_id for arm, one in arm_runs(store[0], run).items()} == before


def test_a_study_that_was_stopped_and_went_on_has_one_run_an_arm_with_all_its_seeds(store):
    study = synthetic_study(EFFECTS, seeds=3, **SMALL)
    folder = next_run_folder(store[1], "ablate_depth")
    run = begin(store[0], study, folder)
    add_trials(run, [trial for trial in study.trials if trial.seed == 0 and trial.arm == "depth 0"])
    conclude(run, folder, "KILLED")
    assert unfinished_study(store[0], "ablate_depth", folder.parent).parent_run_id == run.run_id
    (one,) = arm_runs(store[0], run).values()
    assert one.info.run_name == "depth 0, 1 seed"
    assert "test_sd/dice_WT" not in one.data.metrics and "test_low/dice_WT" not in one.data.metrics
    add_trials(run, study.trials)
    read = conclude(run, folder)
    assert len(read.trials) == 6 and {t.status for t in read.trials} == {"FINISHED"}
    runs = arm_runs(store[0], run)
    assert {one.info.run_name for one in runs.values()} == {"depth 0, 3 seeds", "depth 2, 3 seeds"}
    history = store[0].client.get_metric_history(runs["depth 0"].info.run_id, "val/dice_mean")
    assert [metric.step for metric in history] == [1, 2, 3]


def test_resume_finds_a_finished_study_of_which_a_trial_failed_unless_a_look_has_counted_it(store):
    study = synthetic_study(EFFECTS, seeds=2, failed=[("depth 2", 1)], **SMALL)
    folder = next_run_folder(store[1], "a_trial_failed")
    run = begin(store[0], dataclasses.replace(study, name=folder.name), folder)
    add_trials(run, study.trials)
    conclude(run, folder)
    found = unfinished_study(store[0], "a_trial_failed", folder.parent)
    assert found.parent_run_id == run.run_id
    assert {trial.key for trial in found.trials} - found.over == {"depth 2, seed 1"}
    look = Look(seeds=2, contrasts=(), arms=(), reason="")
    assert dataclasses.replace(found, max_seeds=2, looks=(look,)).over == {
        trial.key for trial in found.trials
    }


@pytest.mark.parametrize("other", ["ablate-depth_Run07", "ablate_depth_Run07_Run01"])
def test_resume_takes_no_other_study_for_one_whose_name_is_like_it(tmp_path, monkeypatch, other):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(tmp_path)
    study = dataclasses.replace(synthetic_study(EFFECTS, seeds=1, **SMALL), name=other)
    begin(store, study, tmp_path / other)
    assert unfinished_study(store, "ablate_depth", tmp_path) is None
    assert unfinished_study(store, other.rpartition("_Run")[0], tmp_path).name == other


def test_resume_takes_no_study_of_another_folder_of_a_store_that_folders_share(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    mine, other = tmp_path / "mine", tmp_path / "other"
    store = open_store(mine)
    study = dataclasses.replace(
        synthetic_study(EFFECTS, seeds=1, **SMALL), name="ablate_depth_Run01"
    )
    (other / study.name).mkdir(parents=True)
    begin(store, study, other / study.name)
    assert unfinished_study(store, "ablate_depth", mine) is None
    assert unfinished_study(store, "ablate_depth", other).name == study.name
    moved = other.rename(tmp_path / "moved")
    assert unfinished_study(store, "ablate_depth", moved).name == study.name


def test_a_run_of_an_arm_that_a_kill_left_half_written_is_replaced(store):
    study = synthetic_study(EFFECTS, seeds=2, **SMALL)
    folder = next_run_folder(store[1], "half")
    run = begin(store[0], study, folder)
    add_trials(run, study.trials)
    half = store[0].create_run(
        "depth 0, 2 seeds",
        {"kind": "arm", "arm": "depth 0", "mlflow.parentRunId": run.run_id},
    )
    conclude(run, folder)
    runs = arm_runs(store[0], run)
    assert set(runs) == set(EFFECTS) and half not in {one.info.run_id for one in runs.values()}


def test_failed_trials_count_for_no_arm_and_an_arm_without_a_tested_one_has_no_run(store):
    failed = [("depth 0", 0), ("depth 0", 1), ("depth 2", 1)]
    study = synthetic_study(EFFECTS, seeds=2, failed=failed, **SMALL)
    run, _ = concluded(store[0], study, next_run_folder(store[1], "failed"))
    (one,) = arm_runs(store[0], run).values()
    assert one.data.tags["arm"] == "depth 2" and one.data.tags["seeds"] == "0"


def test_the_parents_description_is_the_verdict_with_the_arms_and_the_limits(store, whole):
    run, study = whole
    tags = store[0].client.get_run(run.run_id).data.tags
    note = tags["mlflow.note.content"]
    assert tags["answer"] in note.lower() and "No answer yet" not in note
    for words in ("depth 0 (baseline)", "depth 2", "3 of 3", "Data: data/brats2023", "The claim: "):
        assert words in note, note
    fresh = begin(store[0], study, store[1] / "fresh")
    started = store[0].client.get_run(fresh.run_id).data.tags["mlflow.note.content"]
    assert "No answer yet" in started


def test_the_page_of_cases_is_an_artifact_or_is_said_to_lie_elsewhere(
    store, whole, tmp_path, monkeypatch
):
    run, study = whole
    report = tmp_path / "report.html"
    for page in (report, report.with_suffix(".md")):
        page.write_text("the report")

    def logged(page):
        log_answer(run, study, report, page)
        held = {file.path for file in store[0].client.list_artifacts(run.run_id)}
        return held, store[0].client.get_run(run.run_id).data.tags["mlflow.note.content"]

    viewer = tmp_path / "viewer.html"
    viewer.write_text("the cases of an earlier start")
    held, note = logged(None)
    assert "viewer.html" not in held and "viewer" not in note
    viewer.write_text("the cases")
    monkeypatch.setattr(study_answer, "VIEWER_BYTES", 3)
    held, note = logged(viewer)
    assert "viewer.html" not in held and "too large" in note
    assert "viewer.html in the study's folder" in note and str(tmp_path) not in note
    monkeypatch.setattr(study_answer, "VIEWER_BYTES", 30)
    held, note = logged(viewer)
    assert "viewer.html" in held and "viewer.html beside it shows the worst" in note


def test_one_column_holds_the_score_of_study_arms_and_trials(store, whole):
    run, study = whole
    parent = store[0].client.get_run(run.run_id).data
    best = best_tested(study)
    assert parent.metrics["test/dice_mean"] == pytest.approx(best.metrics["test/dice_mean"])
    assert parent.metrics["verdict/low_dice_WT"] <= parent.metrics["verdict/difference_dice_WT"]
    assert not [name for name in parent.metrics if name.startswith("best/")]
    for one in (*arm_runs(store[0], run).values(), *run.children()):
        assert "test/dice_mean" in one.data.metrics


def test_a_study_that_an_earlier_version_ended_is_still_listed_with_its_best_dice(store):
    study = synthetic_study(EFFECTS, seeds=1, **SMALL)
    run = begin(store[0], study, next_run_folder(store[1], "earlier"))
    add_trials(run, study.trials)
    store[0].log_metrics(run.run_id, {"best/test/dice_mean": 0.75})
    rows = {row["best_dice_mean"] for row in list_studies(store[1])}
    assert 0.75 in rows
    assert len(read_study(run).trials) == 2


@pytest.mark.parametrize(
    "arm", ["<script>alert(1)</script>", "[/bold]x", "a|b", "🧠 depth", "*b* _c_"]
)
def test_an_arm_is_called_as_it_is_in_names_and_shown_as_it_is_in_descriptions(store, arm):
    study = synthetic_study({"control": 0.0, arm: 0.01}, seeds=2, **SMALL)
    run, read = concluded(store[0], study, next_run_folder(store[1], "named"))
    assert arm_runs(store[0], run)[arm].info.run_name == f"{arm}, 2 seeds"
    note = store[0].client.get_run(run.run_id).data.tags["mlflow.note.content"]
    assert "<script" not in note and {t.arm for t in read.trials} == {"control", arm}
    (row,) = [line for line in note.splitlines() if "2 of 2" in line and "control" not in line]
    assert row.replace("\\|", "").count("|") == 8


def test_a_run_of_an_arm_whose_end_was_not_heard_is_replaced_by_one_that_has_ended(
    store, whole, monkeypatch
):
    """A store may go away between two requests; then all of them are made again."""
    run, study = whole
    for one in arm_runs(store[0], run).values():
        store[0].client.delete_run(one.info.run_id)
    end_run = Store.end_run

    def away(self, run_id, status):
        raise ConnectionError

    monkeypatch.setattr(Store, "end_run", away)
    with pytest.raises(ConnectionError):
        log_arms(run, study)
    monkeypatch.setattr(Store, "end_run", end_run)
    log_arms(run, study)
    found = arm_runs(store[0], run)
    assert set(found) == set(EFFECTS)
    assert {one.info.status for one in found.values()} == {"FINISHED"}


def test_the_studys_own_run_has_a_name_among_its_arms_in_charts(store, whole):
    """MLflow shows it with them, otherwise as "Unassigned"."""
    run, study = whole
    tags = store[0].client.get_run(run.run_id).data.tags
    assert tags["summary"] == f"best trial of {study.name}"
