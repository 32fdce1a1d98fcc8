"""The inference ablation on tiny untrained networks: shared predictions, MLflow and the report."""

import io
import json

import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console

from search_spaces.ablate_inference import ARMS, BASELINE
from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.errors import UserError
from segmamba.evaluation.cases import evaluate
from segmamba.evaluation.inference_arms import score_arms
from segmamba.files import is_abandoned
from segmamba.models import build_model
from segmamba.orchestration import inference_ablation
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.inference_ablation import InferenceOptions, run_inference_ablation
from segmamba.orchestration.tracking.store import Store
from segmamba.orchestration.tracking.study_run import close_abandoned
from segmamba.reports.inference_report import as_dict, render_terminal
from segmamba.training.run_folder import RunFolder

CPU = torch.device("cpu")
CONFIG = preset("demo").changed(
    {"model.base_channels": 4, "data.patch_size": (16, 16, 16), "data.spacing_mm": 4.0}
)


def write_run(folder, config, seed):
    run = RunFolder(folder)
    run.write_config(config)
    torch.manual_seed(seed)
    torch.save(build_model(config.model).state_dict(), run.best)
    return run


def shown(results, width):
    """What a terminal of this width shows of the results."""
    screen = io.StringIO()
    render_terminal(results, Console(file=screen, width=width))
    return screen.getvalue()


def test_an_arm_scores_what_the_test_gives_with_its_settings(cases_folder, tmp_path):
    run = write_run(tmp_path / "run", CONFIG, 0)
    cases = prepare_cases(find_cases(cases_folder), tmp_path / "cache", CONFIG.data)
    rows = score_arms(
        run.root, {name: ARMS[name] for name in (BASELINE, "8 mirror images", "CRF")}, cases, CPU
    )
    model = build_model(CONFIG.model)
    model.load_state_dict(torch.load(run.best, weights_only=True))
    for name, scored in rows.items():
        expected = evaluate(model, cases, CONFIG.changed(ARMS[name]), CPU)
        assert [row["dice_WT"] for row in scored] == [row["dice_WT"] for row in expected]
        assert [row["hd95_mm_TC"] for row in scored] == [
            row["hd95_mm_TC"] for row in expected
        ] and all(row["seconds"] > 0 for row in scored)


def test_what_training_fixes_cannot_vary(tmp_path):
    with pytest.raises(UserError, match=r"model\.norm is fixed by training"):
        score_arms(tmp_path, {"a": {"model.norm": "instance"}}, [], CPU)


def test_the_ablation_is_a_study_in_mlflow_with_a_report(cases_folder, tmp_path):
    config = CONFIG.changed({"data.source": str(cases_folder), "data.test_share": 0.5})
    runs = [write_run(tmp_path / f"run{seed}", config, seed).root for seed in (0, 1)]
    arms = {name: ARMS[name] for name in (BASELINE, "8 mirror images", "small components removed")}
    results = tmp_path / "Results"
    found, report = run_inference_ablation(
        runs, arms, BASELINE, InferenceOptions(output=results, device="cpu"), SilentProgress()
    )
    html, text = report.read_text(), report.with_suffix(".md").read_text()
    for words in ("8 mirror images", "small components removed", "over training runs and patients"):
        assert words in html and words in text
    whole, narrow = shown(found, 300), shown(found, 80)
    assert set(whole.split()) == set(narrow.split()), "no word is broken at 80 columns"
    assert max(map(len, narrow.splitlines())) <= 80
    client = MlflowClient(found.mlflow_uri)
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{found.run_id}'")
    assert {run.data.tags["arm"] for run in children} == set(arms) and all(
        "test/lesionwise_dice_mean" in run.data.metrics for run in children
    )
    assert client.get_run(found.run_id).info.status == "FINISHED"
    assert "report.html" in {file.path for file in client.list_artifacts(found.run_id)}
    told = json.loads(json.dumps(as_dict(found)))
    assert (
        told["arms"][BASELINE]["dice_mean"] == found.mean(BASELINE, "dice_mean")
        and len(found.rows[BASELINE]) == 2
    )
    alone, _ = run_inference_ablation(
        runs[:1], arms, BASELINE, InferenceOptions(output=results, device="cpu"), SilentProgress()
    )
    assert alone.rows[BASELINE][0][0]["dice_WT"] == found.rows[BASELINE][0][0]["dice_WT"]


def test_while_it_runs_no_other_study_takes_it_for_dead_and_when_it_is_stopped_it_says_so(
    cases_folder, tmp_path, monkeypatch
):
    config = CONFIG.changed({"data.source": str(cases_folder), "data.test_share": 0.5})
    run, seen = write_run(tmp_path / "run", config, 0), []
    client = MlflowClient(f"sqlite:///{tmp_path / 'Results' / 'mlflow.db'}")

    def interrupted(*given, **options):
        seen.extend(close_abandoned(Store(client.tracking_uri, "1"), is_abandoned))
        raise KeyboardInterrupt

    monkeypatch.setattr(inference_ablation, "score_arms", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_inference_ablation(
            [run.root],
            ARMS,
            BASELINE,
            InferenceOptions(output=tmp_path / "Results", device="cpu"),
            SilentProgress(),
        )
    (parent,) = client.search_runs(["1"])
    assert seen == [] and parent.info.status == "KILLED"
    client.update_run(parent.info.run_id, status="RUNNING")  # as a kill leaves it
    assert close_abandoned(Store(client.tracking_uri, "1"), is_abandoned) == [
        "ablate_inference_Run01"
    ]
