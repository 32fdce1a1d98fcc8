"""The depth ablation itself, tiny, as a user runs it; then its MLflow store is read back."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from segmamba.cli import main
from segmamba.config import load_config, preset
from segmamba.models import build_model
from segmamba.pictures.niivue import niivue_is_installed

ROOT = Path(__file__).parents[2]
TINY = {
    "train.epochs": "1",
    "train.steps_per_epoch": "2",
    "optim.warmup_epochs": "0",
    "phantom.cases": "6",
    "phantom.size": "48,48,48",
    "data.spacing_mm": "4",
    "data.patch_size": "32,32,32",
    "model.base_channels": "4",
}
ARMS = ("control 2", "depth 2")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(working folder, finished process) of a study of two arms, one seed and one epoch."""
    cwd = tmp_path_factory.mktemp("study")
    settings = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    arms = [part for arm in ARMS for part in ("--arms", arm)]
    command = [
        sys.executable,
        ROOT / "experiments" / "ablate_depth.py",
        "--seeds",
        "1",
        *arms,
        *settings,
    ]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)
    return cwd, process


@pytest.fixture(scope="module")
def runs(study):
    """(client, parent run, {arm: child run})."""
    client = MlflowClient(f"sqlite:///{study[0]}/Results/mlflow.db")
    experiment = client.get_experiment_by_name("segmamba")
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if run.data.tags["kind"] == "study"]
    children = [run for run in found if run.data.tags["kind"] == "trial"]
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children)
    return client, parent, {run.data.tags["arm"]: run for run in children}


def test_it_ends_well_and_tells_where_to_look(study):
    cwd, process = study
    assert process.returncode == 0, process.stderr + process.stdout
    assert process.stderr == "", "nothing but the study itself speaks"
    assert "mlflow ui --backend-store-uri sqlite:///Results/mlflow.db" in process.stdout
    assert str(cwd / "Results" / "ablate_depth_Run01" / "report.html") in process.stdout
    assert "undecided" in process.stdout.lower(), "one seed decides nothing"
    folder = cwd / "Results" / "ablate_depth_Run01"
    first, *_, last = re.findall(r"(?:page|report) +(\S+report\.html)", process.stdout)
    assert first == last == str(folder / "report.html"), "where it lies is said at the start"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http-equiv" not in page and 'id="live"' not in page, "it has ended"
    if niivue_is_installed():
        assert f"viewer   {folder / 'viewer.html'}" in process.stdout
        assert 'href="viewer.html"' in page and "viewer.html#case=" in page
    assert "phantom data: no evidence about BraTS" in process.stdout


def test_one_parent_and_a_finished_child_for_each_trial(runs):
    _, parent, children = runs
    assert set(children) == set(ARMS)
    assert parent.info.status == "FINISHED" and parent.info.run_name == "ablate_depth_Run01"
    assert all(run.info.status == "FINISHED" for run in children.values())
    fronts = {name: v for name, v in parent.data.metrics.items() if name.startswith("pareto/")}
    for cost in ("training", "inference", "parameters"):
        assert 1.0 in {fronts[f"pareto/{cost}/{arm}"] for arm in ARMS}
    assert not [name for name in fronts if name.startswith("pareto/memory")], "on a CPU"
    assert {run.info.run_name for run in children.values()} == {f"{arm}, seed 0" for arm in ARMS}


def test_children_carry_the_full_configuration_and_differ_only_by_their_arm(runs):
    _, _, children = runs
    control, two = (children[arm].data.params for arm in ARMS)
    assert set(control) == set(preset("demo").to_flat_dict())
    assert {name for name in control if control[name] != two[name]} == {"model.name"}
    assert control["model.name"] == "control" and control["train.early_stop_epochs"] == "0"


def test_children_carry_train_val_test_and_time_metrics(runs):
    client, _, children = runs
    for run in children.values():
        for name in (
            "train/loss",
            "val/dice_mean",
            "test/dice_mean",
            "test/dice_ET",
            "test/dice_TC",
            "test/dice_WT",
            "model/parameters",
            "time/predict_case_s",
        ):
            assert name in run.data.metrics
        assert 0 <= run.data.metrics["test/dice_mean"] <= 1
        assert [m.step for m in client.get_metric_history(run.info.run_id, "val/dice_mean")] == [1]
        assert {name.split("/")[0] for name in run.data.metrics} - {"system"} == {
            "train",
            "val",
            "test",
            "time",
            "model",
        }


def test_tags_to_filter_by_are_there(runs):
    _, parent, children = runs
    for run in (parent, *children.values()):
        assert (
            run.data.tags["preset"] == "demo" and run.data.tags["labels_convention"] == "brats2018"
        )
        assert run.data.tags["dataset"].startswith("phantom") and run.data.tags["git_commit"]
    assert all(run.data.tags["seed"] == "0" for run in children.values())


def test_artifacts_are_absolute_below_results_and_hold_no_checkpoint_but_the_champions(study, runs):
    cwd, _ = study
    client, parent, children = runs
    for run in children.values():
        assert run.info.artifact_uri.startswith((cwd / "Results" / "mlartifacts").as_uri())
        assert {"config.json", "final_metrics.json", "test_cases.json", "plots"} <= {
            f.path for f in client.list_artifacts(run.info.run_id)
        }
    assert {"report.md", "report.html", "study.json", "plots"} <= {
        f.path for f in client.list_artifacts(parent.info.run_id)
    }
    assert len(list((cwd / "Results" / "mlartifacts").rglob("*.pth"))) == 1


def test_the_champion_is_registered_and_loads_without_running_code(runs):
    client, parent, children = runs
    version = client.get_model_version_by_alias("segmamba-ablate_depth", "champion")
    best = max(children.values(), key=lambda run: run.data.metrics["val/best_dice_mean"])
    assert version.run_id == best.info.run_id and version.tags["study"] == parent.info.run_name
    folder = (
        Path(client.download_artifacts(version.run_id, "model")) / "artifacts" / "networks" / "01"
    )
    network = build_model(load_config(folder / "config.json").model)
    network.load_state_dict(torch.load(folder / "best_metric_model.pth", weights_only=True))


def test_the_answer_is_a_tag_of_the_study(runs):
    _, parent, _ = runs
    assert parent.data.tags["answer"] == "undecided" and parent.data.tags["verdict"].startswith(
        "Undecided: "
    )


def test_the_per_case_table_holds_the_test_set(study, runs):
    client, parent, children = runs
    planned = json.loads(
        Path(client.download_artifacts(parent.info.run_id, "study.json")).read_text()
    )
    assert not set(planned["data"]["test"]) & set(
        planned["data"]["train"] + planned["data"]["validation"]
    )
    for run in children.values():
        table = json.loads(
            Path(client.download_artifacts(run.info.run_id, "test_cases.json")).read_text()
        )
        assert [row[table["columns"].index("case")] for row in table["data"]] == planned["data"][
            "test"
        ]


def test_every_trial_has_the_documented_run_folder(study, runs):
    folder = study[0] / "Results" / "ablate_depth_Run01"
    for arm, run in runs[2].items():
        trial = folder / "trials" / f"{arm.replace(' ', '-')}_seed0"
        assert run.data.tags["folder"] == str(trial)
        for name in (
            "checkpoints/best_metric_model.pth",
            "checkpoints/last.pth",
            "plots/training_curves.png",
            "plots/val_predictions_epoch_0001.png",
            "metrics/final_metrics.json",
            "config.json",
        ):
            assert (trial / name).stat().st_size > 0
        assert list((trial / "logs").glob("events.out.tfevents*"))
        assert (
            str(load_config(trial / "config.json").model.mamba_depths)
            == run.data.params["model.mamba_depths"]
        )


def test_the_report_opens_with_the_answer_and_lists_every_trial(study, runs):
    folder = study[0] / "Results" / "ablate_depth_Run01"
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "phantom data: no evidence about BraTS" in text
        assert text.lower().index("undecided") < text.index(
            "control 2", text.lower().index("undecided")
        )
        for arm, run in runs[2].items():
            assert arm in text and run.info.run_id in text


def test_a_trial_is_reproduced_with_its_weights_and_another_weight_is_found(
    study, runs, capsys, monkeypatch
):
    client, _, children = runs
    run_id, output = children["depth 2"].info.run_id, str(study[0] / "Results")
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["segmamba", "reproduce", run_id, "--output", output])
    try:
        assert reproduced() == 0
        shown = capsys.readouterr().out
        assert "weights, best" in shown and "weights, last" in shown and "differs" not in shown
        client.set_tag(run_id, "weights_sha256_best", "0" * 64)
        assert reproduced() == 1
        assert "differs" in capsys.readouterr().out
        client.delete_tag(run_id, "weights_sha256_best")
        assert reproduced() == 1
        assert "the run recorded no digest of these weights" in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)


def reproduced():
    """The exit code of `segmamba reproduce`."""
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "regions", "case"),
    [
        ("post_treatment", ("ET", "TC", "WT", "RC"), "BraTS-GLI-Phantom000-100"),
        ("pediatric", ("ET", "TC", "WT", "NETC", "CC", "ED"), "BraTS-PED-Phantom000-000"),
    ],
)
def test_other_diseases_are_studied_and_predicted_with_all_their_classes(
    tmp_path, kind, regions, case
):
    settings = TINY | {"phantom.kind": kind, "phantom.cases": "8"}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    options += ["--arms", "control 2", "--arms", "depth 2", "--seeds", "1"]
    command = [sys.executable, ROOT / "experiments" / "ablate_depth.py", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "Results" / "ablate_depth_Run01"
    assert f"| mean Dice | {' | '.join(regions)} |" in (folder / "report.md").read_text()
    trial = folder / "trials" / "depth-2_seed0"
    assert load_config(trial / "config.json").model.classes == kind
    final = json.loads((trial / "metrics" / "final_metrics.json").read_text())
    assert {f"test/dice_{region}" for region in regions} <= final.keys()
    (phantom,) = (tmp_path / "Results" / "phantom").iterdir()
    program = [sys.executable, "-c", "from segmamba.cli import main; main()"]
    command = [*program, "predict", "--input", phantom]
    command += ["--checkpoint", trial, "--output", tmp_path / "out", "--overlay", "--html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / f"{case}.nii.gz").is_file()
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert tuple(record["cases"][0]["volumes_ml"]) == regions


def test_the_examples_of_a_study_are_predicted_again_for_its_viewer(study, capsys, monkeypatch):
    output = study[0] / "Results"
    words = ["segmamba", "report", "ablate_depth_Run01", "--viewer", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*words, "--output", str(output)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    folder = output / "ablate_depth_Run01"
    page = (folder / "viewer.html").read_text(encoding="utf-8")
    assert f"viewer   {folder / 'viewer.html'}" in capsys.readouterr().out
    assert '<a href="viewer.html">' in (folder / "report.html").read_text(encoding="utf-8")
    if not niivue_is_installed():
        assert "segmamba[viewer]" in page
        return
    held = [
        json.loads(text)["about"]
        for text in re.findall(r'class="viewer-case"[^>]*>(.*?)</script>', page, re.DOTALL)
    ]
    final = json.loads(
        (folder / "trials" / "depth-2_seed0" / "metrics" / "final_metrics.json").read_text()
    )
    scores = {row["case"]: row["dice_mean"] for row in final["cases"]}
    assert {about["id"] for about in held} <= scores.keys() and held
    for about in held:
        named = {one["name"]: one["dice"] for one in about["predictions"]}
        if "depth 2" in named:
            assert named["depth 2"] == pytest.approx(scores[about["id"]], abs=1e-6)
