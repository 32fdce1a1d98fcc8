"""Studies in a store, compared by the command."""

import dataclasses
import json

import pytest
from mlflow import MlflowClient

from segmamba.cli import app
from segmamba.commands.shared import run_app
from segmamba.data.splits import Split
from segmamba.orchestration.tracking.reuse import DIGEST_TAG, MADE_WITH_TAG
from segmamba.orchestration.tracking.run_log import TEST_TABLE
from segmamba.orchestration.tracking.store import open_store
from segmamba.orchestration.tracking.study_run import start_study
from segmamba.studies.trial_plan import TrialPlan
from tests.studies.synthetic import synthetic_study

MADE_WITH = {"code": "c0de", "torch": "2.13.0", "device": "cpu", "cases": "ca5e"}


def stored(results, whole, name, seeds, **changes):
    """Store a study of some seeds of another one as a driver and its trials would."""
    study = dataclasses.replace(whole, name=name, seeds=tuple(seeds), trials=(), **changes)
    study = dataclasses.replace(study, environment=study.environment | {"git commit": "abc"})
    store = open_store(results)
    split = Split(train=[], validation=[], test=[], test_is_validation=False, notes=())
    run = start_study(store, study, {None: split}, results / name)
    for trial in whole.trials:
        if trial.seed not in seeds:
            continue
        plan = TrialPlan(arm=trial.arm, seed=trial.seed, fold=None)
        tags = {
            "arm": trial.arm,
            "seed": str(trial.seed),
            DIGEST_TAG: trial.run_id,
            MADE_WITH_TAG: json.dumps(MADE_WITH),
        }
        child = run.start_trial(plan.key, tags)
        store.log_params(child, trial.params)
        store.log_metrics(child, trial.metrics)
        names = list(trial.test_cases[0])
        table = {"columns": names, "data": [[row[n] for n in names] for row in trial.test_cases]}
        store.client.log_dict(child, table, TEST_TABLE)
        store.end_run(child, "FINISHED")
    run.end("FINISHED")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = tmp_path_factory.mktemp("Results")
        arms = {"plain": 0.0, "deep": 0.03}
        whole = synthetic_study(arms, seeds=4, cases=24, epochs=1, better="deep", than="plain")
        stored(made, whole, "depth_Run01", [0, 1])
        stored(made, whole, "depth_Run02", [1, 2, 3])
        other = dataclasses.replace(whole.data, test=("another",))
        stored(made, whole, "elsewhere_Run01", [0], data=other)
        yield made


def command(*arguments):
    """The exit code of `segmamba compare-studies`."""
    with pytest.raises(SystemExit) as end:
        run_app(app, ["compare-studies", *map(str, arguments)])
    return end.value.code


def test_two_studies_are_pooled_from_the_store_and_reported(results, capsys):
    assert command("depth_Run01", "depth", "--output", results, "--json") == 0
    output = capsys.readouterr()
    shown = json.loads(output.out)
    assert shown["studies"] == ["depth_Run01", "depth_Run02"]
    assert [(row["arm"], row["seeds_finished"]) for row in shown["arms"]] == [
        ("plain", 4),
        ("deep", 4),
    ]
    first = shown["differences"][0]
    assert (first["region"], first["seeds"], first["patients"]) == ("WT", 4, 24)
    assert shown["verdict"].startswith("Supported: deep scores") and not shown["exploratory"]
    assert "seed 1 finished in several studies and counts once" in " ".join(shown["notes"])
    folder = results / shown["comparison"]
    page = (folder / "report.html").read_text()
    assert "How do the arms of depth_Run01 and depth_Run02 compare?" in page
    assert {path.name for path in (folder / "tables").iterdir()} >= {"arms.csv", "differences.tex"}
    assert (folder / "plots" / "differences.png").exists()
    assert "report   " in output.err and "Dice in points" in output.err


def test_comparing_leaves_the_store_as_it_is(results):
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("segmamba").experiment_id
    before = len(client.search_runs([experiment]))
    assert command("depth_Run01", "--contrast", "deep - plain", "--output", results) == 0
    assert len(client.search_runs([experiment])) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("depth_Run01", "depth_Run01"), "depth_Run01 is named twice"),
        (("depth", "elsewhere"), "depth_Run02 and elsewhere_Run01 cannot be compared"),
        (("nothing",), "no study 'nothing'"),
        (("depth", "--contrast", "deep - none"), "two of plain, deep"),
    ],
)
def test_the_users_mistakes_are_one_line_and_write_nothing(results, capsys, arguments, message):
    before = sorted(results.iterdir())
    assert command(*arguments, "--output", results) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(results.iterdir()) == before


def test_a_folder_without_studies_is_named(tmp_path, capsys):
    assert command("a", "--output", tmp_path) == 2
    assert "no study has run there" in capsys.readouterr().err
