"""A user's own study file: on folds, with an arm that cannot run, run again, listed; and a search.

All of it runs in real processes, tiny.
"""

import json
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import warm
from tests.conftest import write_case

COMMAND = [sys.executable, "-c", "from segmamba.cli import main; main()"]
TINY = {
    "train.epochs": "2",
    "train.steps_per_epoch": "1",
    "train.validate_every_epochs": "1",
    "optim.warmup_epochs": "0",
    "data.spacing_mm": "2",
    "data.patch_size": "32,32,16",
    "model.base_channels": "4",
}
ARMS = '''"""Is one learning rate better than another?"""
from segmamba.studies import Budget, Hypothesis, StudySpec

STUDY = StudySpec(
    name="mine", question="Which learning rate?", baseline="low", budget=Budget(seeds=1),
    hypothesis=Hypothesis(claim="The high one is better.", better="high", than="low"),
    arms={"low": {}, "high": {"optim.lr": 1e-2}, "too coarse": {"model.name": "swinunetr"}},
)
'''
SEARCH = '''"""Which learning rate?"""
from segmamba.studies import Between, Budget, Hypothesis, StudySpec

STUDY = StudySpec(
    name="tuned",
    question="Which learning rate?",
    baseline="baseline",
    budget=Budget(seeds=1, trials=3),
    hypothesis=Hypothesis(claim="There is a better one.", better="found", than="baseline"),
    space={"optim.lr": Between(1e-4, 1e-2, log=True)},
)
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    for number in range(6):
        write_case(folder / "data", f"BraTS20_Training_{number:03d}", seed=number)
    (folder / "mine.py").write_text(ARMS)
    (folder / "tuned.py").write_text(SEARCH)
    return folder


def segmamba(home, *words):
    return warm.run([*COMMAND, *words], cwd=home, timeout=500)


def study(home, file, *options, **changes):
    settings = [
        part for name, value in (TINY | changes).items() for part in ("--set", f"{name}={value}")
    ]
    done = segmamba(home, "study", file, "--data", "data", "--no-viewer", *options, *settings)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def folded(home):
    """What was printed by the study on two folds, and by the same command once more."""
    return study(home, "mine.py", "--folds", "2"), study(home, "mine.py", "--folds", "2")


def runs(home, study_name):
    """{trial: its MLflow run} of a study."""
    client = MlflowClient(f"sqlite:///{home}/Results/mlflow.db")
    found = client.search_runs(
        [client.get_experiment_by_name("segmamba").experiment_id],
        f"tags.study = '{study_name}' and tags.kind = 'trial'",
    )
    return client, {run.data.tags["trial"]: run for run in found}


def test_every_arm_runs_on_every_fold_and_all_patients_are_tested_once(home, folded):
    client, trials = runs(home, "mine_Run01")
    ran = {key for key, run in trials.items() if run.info.status == "FINISHED"}
    assert ran == {f"{arm}, seed 0, fold {fold}" for arm in ("low", "high") for fold in (0, 1)}
    tested = []
    for fold in (0, 1):
        run = trials[f"low, seed 0, fold {fold}"]
        assert (run.data.params["data.folds"], run.data.params["data.fold"]) == (
            "2",
            str(fold),
        ) and run.data.tags["fold"] == str(fold)
        table = json.loads(
            Path(client.download_artifacts(run.info.run_id, "test_cases.json")).read_text()
        )
        tested += [row[table["columns"].index("case")] for row in table["data"]]
    assert sorted(tested) == [f"BraTS20_Training_{number:03d}" for number in range(6)]


def test_an_arm_that_cannot_run_here_is_in_the_table_with_its_reason(home, folded):
    _, trials = runs(home, "mine_Run01")
    run = trials["too coarse, seed 0, fold 0"]
    assert (
        run.info.status == "FAILED"
        and run.data.tags["infeasible"] == "yes"
        and "must be a multiple of 32" in run.data.tags["reason"]
    )
    report = (home / "Results" / "mine_Run01" / "report.md").read_text()
    row = next(line for line in report.splitlines() if line.startswith("| too coarse | 0, fold 0"))
    assert "infeasible" in row and "must be a multiple of 32" in row
    assert "left out too coarse: network input of 32 x 32 x 16 voxels" in folded[0]


def test_what_was_trained_before_to_the_letter_is_not_trained_again(home, folded):
    assert "reused   4 trials" in folded[1] and "trials   0 to run" in folded[1]
    _, first = runs(home, "mine_Run01")
    client, second = runs(home, "mine_Run02")
    for key, run in second.items():
        if run.info.status == "FINISHED":
            source = first[key]
            assert run.data.tags["reused_from"] == source.info.run_id
            copied = {
                name: value
                for name, value in source.data.metrics.items()
                if not name.startswith("system/")
            }
            assert run.data.metrics == copied and run.data.params == source.data.params
            steps = [
                [m.step for m in client.get_metric_history(r.info.run_id, "val/dice_mean")]
                for r in (run, source)
            ]
            assert steps[0] == steps[1] == [1, 2]
    report = (home / "Results" / "mine_Run02" / "report.md").read_text()
    assert report.count("reused from mine\\_Run01") + report.count("reused from mine_Run01") == 4


def test_studies_are_listed_with_their_answers_and_a_report_is_drawn_again(home, folded):
    listed = json.loads(segmamba(home, "studies", "--json").stdout)
    assert [row["study"] for row in listed][-2:] == ["mine_Run02", "mine_Run01"]
    assert listed[-1]["answer"] == "undecided" and (
        listed[-1]["finished"],
        listed[-1]["trials"],
    ) == (4, 6)
    shown = segmamba(home, "studies").stdout
    assert "mine_Run01" in shown and "Undecided" in shown
    page = home / "Results" / "mine_Run01" / "report.html"
    before = page.read_text()
    page.unlink()
    drawn = segmamba(home, "report", "mine_Run01")
    assert drawn.returncode == 0 and str(page) in drawn.stdout

    def lasting(text):  # all but the time that the study took
        return [line for line in text.splitlines() if " from plan to report" not in line]

    assert lasting(page.read_text()) == lasting(before)


def test_a_study_that_is_not_there_is_named_with_those_that_are(home, folded):
    refused = segmamba(home, "report", "yours")
    assert (
        refused.returncode == 2
        and "no study 'yours'" in refused.stderr
        and "mine_Run02" in refused.stderr
    )


@pytest.mark.slow
def test_a_search_tests_the_baseline_and_what_validation_chose_and_nothing_else(home):
    printed = study(
        home, "tuned.py", **{"train.validate_every_epochs": "2"}
    )  # ASHA must do without the metric at first
    _client, trials = runs(home, "tuned_Run01")
    searched = {key: run for key, run in trials.items() if run.data.tags.get("stage") == "search"}
    tested = {key for key, run in trials.items() if "test/dice_mean" in run.data.metrics}
    assert len(searched) == 3 and tested == {"baseline, seed 1", "found, seed 1"}
    first = json.loads(searched["trial 00, seed 0"].data.tags["changes"])
    assert first == {"optim.lr": float(trials["baseline, seed 1"].data.params["optim.lr"])}
    found = trials["found, seed 1"].data.params["optim.lr"]
    assert found in {
        run.data.params["optim.lr"] for key, run in searched.items() if key != "trial 00, seed 0"
    }
    assert {run.info.status for run in trials.values()} == {"FINISHED"}
    assert "found    trial 0" in printed
    report = (home / "Results" / "tuned_Run01" / "report.md").read_text()
    assert all(run.info.run_id in report for run in trials.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "defines no STUDY"),
        ("STUDY = 1 +", "line 1: SyntaxError"),
        ("import nothing_of_the_kind", "line 1: ModuleNotFoundError"),
        (ARMS.replace('than="low"', 'than="lower"'), "'lower' is named but is no arm"),
    ],
)
def test_a_file_that_declares_no_study_gets_one_line(tmp_path, text, told):
    (tmp_path / "wrong.py").write_text(text)
    refused = segmamba(tmp_path, "study", "wrong.py")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and told in refused.stderr, (
        refused.stderr
    )
    assert not (tmp_path / "Results").exists()


def test_a_search_refuses_folds(tmp_path):
    (tmp_path / "tuned.py").write_text(SEARCH)
    refused = segmamba(tmp_path, "study", "tuned.py", "--folds", "2")
    assert (
        refused.returncode == 2
        and refused.stderr == "error: --folds 2: a search trains on one split; leave --folds out\n"
    )
    assert not (tmp_path / "Results").exists()


def test_no_study_has_run_where_there_is_no_store(tmp_path):
    assert "no study has run" in segmamba(tmp_path, "studies").stdout
    assert segmamba(tmp_path, "report", "mine").returncode == 2
    assert not (tmp_path / "Results").exists()


def test_the_options_of_a_users_study_are_those_of_the_scripts(home):
    shown = segmamba(home, "study", "mine.py", "--help").stdout
    assert "Which learning rate?" in shown and all(
        option in shown for option in ("--folds", "--resume", "--arms", "--fresh", "--scheduler")
    )
