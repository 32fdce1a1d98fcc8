"""A page of evidence: its studies run, left alone once they have ended, and told from MLflow."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search_spaces.evidence import PARTS
from segmamba.errors import UserError
from segmamba.orchestration.evidence import (
    STOPPED_CODE,
    EvidenceOptions,
    EvidenceRunner,
    _call,
    _without_dataset,
    without_places,
)
from segmamba.reports.evidence import MISSING, Part, cost_of, effect_rows, unseen, write_evidence
from segmamba.studies.results import Study
from tests.conftest import write_case
from tests.studies.synthetic import synthetic_study
from tests.tiny import TINY_CHANGES

ROOT = Path(__file__).parents[2]
CASES = 6
COARSE = np.diag([-5.0, -5.0, 5.0, 1.0])
SMALL = {
    "phantom.cases": 6,
    "phantom.size": (48, 48, 48),
    "data.spacing_mm": 5.0,
    "data.patch_size": (32, 32, 32),
    "train.epochs": 1,
    "optim.warmup_epochs": 0,
}


def evidence(*arguments):
    command = [sys.executable, "experiments/evidence.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def settings():
    for name, value in (TINY_CHANGES | SMALL).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        yield from ("--set", f"{name}={text}")


def test_the_page_of_a_study_that_ran_on_cases_and_on_phantoms(tmp_path):
    for number in range(CASES):
        name = f"BraTS20_Training_{number:03d}"
        write_case(tmp_path / "data", name, seed=number, shape=(24, 24, 20), affine=COARSE)
    page = tmp_path / "docs" / "evidence.md"
    command = [
        *("--data", tmp_path / "data", "--preset", "demo", "--seeds", 1, "--folds", 2),
        *("--only", "ablate_recipe", "--phantoms", "--cpus", 1),
        *("--output", tmp_path / "Results", "--page", page, *settings()),
    ]
    first = evidence(*command)
    assert first.returncode == 0, first.stdout + first.stderr
    text = page.read_text(encoding="utf-8")
    told = text.split("<!-- part ablate_recipe -->")[1].split("<!-- part")[0]
    assert "ablate_recipe.py" in told and "--data DATA" in told
    assert str(tmp_path) not in text
    assert "What it cannot tell: 6 patients and 1 seed give no interval" in told
    assert all(f"| BraTS20_Training_{number:03d} |" in told for number in range(CASES))
    assert (page.parent / "images" / "evidence" / "ablate_recipe.png").stat().st_size > 5000
    effects = told.split("Does the phantom predict the real?")[1]
    assert "| strong" in effects and "| open (" in effects
    assert text.count(MISSING) == 2 * (len(PARTS) - 1)  # in the table and in its section

    again = evidence(*command)
    assert again.returncode == 0 and "begins" not in again.stdout
    assert again.stdout.count("done     ablate_recipe") == 2
    assert page.read_text(encoding="utf-8") == text


def test_a_part_that_does_not_exist_is_one_line():
    ended = evidence("--only", "ablate_everything")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "--only 'ablate_everything': no such part" in ended.stderr


def options_of(folder):
    return EvidenceOptions(
        data=folder,
        labels="auto",
        names=(),
        preset="demo",
        seeds="2",
        folds=2,
        changes=(),
        gpus_per_trial="",
        cpus=2,
        full=False,
        output=folder,
    )


def test_what_needs_another_parts_networks_is_left_out_and_says_so(tmp_path):
    said = []
    runner = EvidenceRunner(options_of(tmp_path), ROOT / "experiments", said.append)
    (inference,) = [part for part in PARTS if part.kind == "inference"]
    assert runner.run(inference) == 2
    assert said == [
        "left out ablate_inference: it takes the ensemble's networks, and none has been trained"
    ]


def test_a_network_is_trained_on_phantoms_once_for_the_part_that_starts_from_it(
    tmp_path, monkeypatch
):
    calls = []
    weights = tmp_path / "phantoms" / "weights" / "SegMamba_Run01"

    def called(arguments):
        calls.append(arguments)
        if "train" in arguments:
            (weights / "metrics").mkdir(parents=True)
            (weights / "metrics" / "final_metrics.json").write_text("{}", encoding="utf-8")
        return 0

    monkeypatch.setattr("segmamba.orchestration.evidence._call", called)
    options = replace(options_of(tmp_path), changes=("train.epochs=1",))
    runner = EvidenceRunner(options, ROOT / "experiments", lambda line: None)
    (curve,) = [part for part in PARTS if part.from_phantoms]
    assert not curve.has_twin
    assert (runner.run(curve), runner.run(curve)) == (0, 0)
    train, *studies = calls
    assert train[:4] == ["-m", "segmamba.cli", "train", "--resume"] and "--data" not in train
    assert train[-4:] == ["--set", "train.epochs=1", "--output", str(weights.parent)]
    best = weights / "checkpoints" / "best_metric_model.pth"
    assert len(studies) == 2
    assert all(f"learning.initial_weights={best}" in study for study in studies)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "python /home/me/experiments/ablate_depth.py --data /brats --output '/my results' "
            "--set learning.initial_weights=/w/best.pth --folds 5",
            "python experiments/ablate_depth.py --data DATA --output RESULTS "
            "--set learning.initial_weights=FILE --folds 5",
        ),
        ("python a.py --checkpoint /r/1 --checkpoint /r/2", "python a.py --checkpoint RUN"),
        ("python a.py --data=/brats --arms 'depth 2'", "python a.py --data DATA --arms 'depth 2'"),
    ],
)
def test_a_command_is_shown_without_the_machines_folders(command, shown):
    assert without_places(command) == shown


def test_what_the_page_holds_of_a_part_stays_until_the_part_has_run_here(tmp_path):
    page = tmp_path / "evidence.md"
    study = Part(
        name="a", title="A study", study=synthetic_study(seeds=3, cases=6), day="2026-11-29"
    )
    note = Part(name="b", title="A note", note="**It holds.** Words of another machine.")
    write_evidence(page, [study, note])
    before = page.read_text(encoding="utf-8")
    assert "| A note | It holds. |" in before
    write_evidence(page, [replace(study, study=None), replace(note, note="")])
    assert page.read_text(encoding="utf-8") == before
    write_evidence(page, [study, replace(note, note="**It fails.**")])
    after = page.read_text(encoding="utf-8")
    assert "| A note | It fails. |" in after and "It holds" not in after


def test_effects_of_opposite_sign_are_told_and_open_ones_are_called_open():
    def study(gain: float, **options: object) -> Study:
        effects = {"depth 0": 0.0, "depth 2": gain}
        return synthetic_study(effects, seeds=5, cases=30, case_sd=0.001, rest_sd=0.002, **options)

    real, phantom = study(0.03), study(-0.03, phantom=True)
    part = Part(name="a", title="A", study=real, twin=phantom)
    assert {row["same"] for row in effect_rows(part)} == {"NO"}
    assert {row["same"] for row in effect_rows(replace(part, twin=real))} == {"yes"}
    assert effect_rows(replace(part, twin=study(0.0)))[0]["same"].startswith("open")
    assert effect_rows(replace(part, twin=None)) == []


def test_the_cost_stands_beside_what_the_plan_expected():
    study = replace(synthetic_study(seeds=1, cases=4), seconds=110.0)
    assert "planned" not in cost_of(study)
    assert "(planned: 1:40 min, +10 %)" in cost_of(replace(study, resource_plan={"study_s": 100.0}))


def test_how_many_patients_the_margin_takes():
    wide = synthetic_study({"depth 0": 0.0, "depth 2": 0.01}, seeds=5, cases=12, case_sd=0.05)
    assert "12 patients and 5 seeds leave ±" in unseen(wide)
    assert "from none takes about" in unseen(wide)
    one = synthetic_study({"depth 0": 0.0, "depth 2": 0.01}, seeds=1, cases=12)
    assert "no interval for other seeds" in unseen(one)


def test_an_answer_that_is_no_studys_leads_its_section_and_names_no_folder(tmp_path):
    note = "**What is it worth?**\n\nGain 2.0. Data: /home/me/brats, 3 cases."
    told = _without_dataset(note, {"dataset": "/home/me/brats"})
    assert "/home" not in told and "Data: the data, 3 cases." in told
    part = Part(name="a", title="Inference", note=told, answer="Mirroring scores highest.")
    page = write_evidence(tmp_path / "evidence.md", [part]).read_text(encoding="utf-8")
    assert "| Inference | Mirroring scores highest. |" in page


def test_a_folder_of_results_holds_the_parts_of_one_set_of_options(tmp_path):
    options = options_of(tmp_path)
    EvidenceRunner(options, ROOT / "experiments", print)
    EvidenceRunner(replace(options, cpus=7), ROOT / "experiments", print)
    with pytest.raises(UserError, match=r"--preset: the parts in .* were run with 'demo', not 'qu"):
        EvidenceRunner(replace(options, preset="quick"), ROOT / "experiments", print)


@pytest.mark.parametrize("ready", [True, False])
def test_a_sigterm_stops_the_part_that_runs_and_no_other_begins(tmp_path, ready):
    child = tmp_path / "child.py"
    own = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))" if ready else ""
    child.write_text(
        f"import os, signal, sys, time\n{own}\nos.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n",
        encoding="utf-8",
    )
    assert _call([str(child)]) == STOPPED_CODE
    assert _call(["-c", "raise SystemExit(1)"]) == 1
