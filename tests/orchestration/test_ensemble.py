"""The ensemble experiment: what its report says, and the script from end to end."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from search_spaces.ensemble import EXPECTED_GAIN, members
from segmamba.commands.shared import STOPPED
from segmamba.config import PostprocessConfig, preset
from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.evaluation.ensemble_scores import ENSEMBLE, Group
from segmamba.orchestration.tracking.store import as_default
from segmamba.reports.ensemble_figures import draw_ensemble
from segmamba.reports.ensemble_report import as_dict, write_ensemble_report
from segmamba.studies.ensemble_verdict import Ensemble, answer, gain, verdict_sentence
from tests import warm
from tests.conftest import write_case
from tests.reports.test_figures_of_the_page import words_outside
from tests.studies.synthetic import synthetic_study

ROOT = Path(__file__).parents[2]
REGIONS = ("ET", "TC", "WT")


def group_of(name, members, vote, *, cases=6, spread=0.01):
    """A Group whose members score these mean Dice values and whose vote scores `vote`.

    There is a little noise from case to case.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(0, spread, cases)
    group = Group(
        name=name,
        members=tuple(f"{name} {i + 1}" for i in range(len(members))),
        best=0,
        postprocessing=PostprocessConfig(min_et_voxels=50),
    )
    for number in range(cases):
        for flips in (False, True):
            for post in (False, True):
                for who, score in (
                    *zip(group.members, members, strict=True),
                    (ENSEMBLE, vote + 0.01 * flips),
                ):
                    scores = {
                        f"dice_{r}": score + noise[number] * (who == ENSEMBLE)
                        for r in (*REGIONS, "mean")
                    }
                    distances = {f"hd95_mm_{r}": 5.0 for r in REGIONS}
                    group.rows.append(
                        {
                            "case": f"case {number}",
                            "who": who,
                            "flips": flips,
                            "postprocessed": post,
                        }
                        | scores
                        | distances
                    )
        for size in range(1, len(members) + 1):
            mean = members[0] + (vote - members[0]) * (size - 1) / max(1, len(members) - 1)
            group.subsets.append(
                {"case": f"case {number}", "members": tuple(range(size)), "dice_mean": mean}
            )
    group.seconds.update(
        {"member": 1.0, "ensemble": 3.0, "ensemble with flips": 24.0, "post-processing": 0.1}
    )
    return group


def ensemble_of(*groups):
    study = synthetic_study()
    arms = [member for group in groups for member in group.members]
    trials = tuple(dataclasses.replace(study.trials[0], arm=arm, seed=0) for arm in arms)
    study = dataclasses.replace(
        study, arms={arm: {"seed": i} for i, arm in enumerate(arms)}, trials=trials
    )
    return Ensemble(
        study=study,
        groups=groups,
        expected_gain=EXPECTED_GAIN,
        validation={g.name: 0.8 for g in groups},
        registered="models:/segmamba-ensemble@champion (version 1, champion)",
        seconds=12.0,
    )


def test_more_groups_than_colours_with_long_names_are_drawn_whole(recwarn):
    names = [f"deep_supervision_with_attention_gates_{n}" for n in range(6)] + ["\N{BRAIN}"]
    figures = draw_ensemble(ensemble_of(*(group_of(name, [0.79, 0.8], 0.83) for name in names)))
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    for figure in figures.values():
        assert min(panel.get_window_extent().width for panel in figure.axes) > 0.6 * figure.dpi
        assert not words_outside(figure)


@pytest.mark.parametrize(
    ("vote", "expected"), [(0.83, "supported"), (0.805, "rejected"), (0.818, "undecided")]
)
def test_the_answer_follows_from_the_interval_and_the_expected_gain(vote, expected):
    found = ensemble_of(group_of("plain", [0.79, 0.80, 0.81], vote))
    assert answer(found) == expected and verdict_sentence(found).startswith(expected.capitalize())
    assert gain(found.groups[0])[0] == pytest.approx(vote - 0.8, abs=0.01)


def test_the_report_shows_every_member_the_vote_each_size_and_the_cost(tmp_path):
    found = ensemble_of(
        group_of("plain", [0.79, 0.80, 0.81], 0.83), group_of("diverse", [0.78, 0.79, 0.80], 0.84)
    )
    page = write_ensemble_report(found, tmp_path)
    html, text = page.read_text(), page.with_suffix(".md").read_text()
    for words in (
        "plain 3",
        "diverse ensemble",
        "mean of the members",
        "best on the validation set",
        "8 mirror images",
        "min_et_voxels 50",
        "@champion",
    ):
        assert words in html and words in text, words
    assert "diverse ensemble \N{MINUS SIGN} plain ensemble" in html and html.count("<svg") == 2
    assert (tmp_path / "plots" / "members.png").stat().st_size > 5000
    told = as_dict(found)
    assert (
        told["groups"]["plain"]["by_size"][3] == pytest.approx(0.83)
        and json.loads(json.dumps(told))["answer"] == "supported"
    )


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("postgresql://me:secret@host/db", "'postgresql://me:***@host/db'"),
        ("sqlite:////my results/mlflow.db", "--store '/my results' --input"),
    ],
)
def test_commands_of_the_report_can_be_copied_and_hold_no_password(tmp_path, uri, words):
    found = ensemble_of(group_of("plain", [0.79, 0.80], 0.83))
    found = dataclasses.replace(found, study=dataclasses.replace(found.study, mlflow_uri=uri))
    text = write_ensemble_report(found, tmp_path).with_suffix(".md").read_text()
    assert words in text and "secret" not in text


@pytest.mark.parametrize("name", ["demo", "quick", "paper"])
def test_diverse_members_differ_in_seed_patch_and_augmentation_and_all_can_be_trained(name):
    base = preset(name)
    spec = members(5, diverse=True)(base)
    configs = spec.configs(base, {})
    assert len(configs) == 10 and {config.seed for config in configs.values()} == set(range(10))
    diverse = [config for arm, config in configs.items() if arm.startswith("diverse")]
    assert (
        len({config.data.patch_size for config in diverse}) >= 3
        and len({str(config.augment) for config in diverse}) >= 3
    )
    assert all(
        config.data == base.data and config.augment == base.augment
        for arm, config in configs.items()
        if arm.startswith("plain")
    )


@pytest.mark.slow
def test_the_script_trains_scores_registers_and_what_it_registers_predicts(cases_folder, tmp_path):
    """Two tiny members of each kind, in real processes."""
    for number in range(3, 8):
        write_case(cases_folder, f"BraTS20_Training_{number:03d}", seed=number)
    options = [
        "--data",
        cases_folder,
        "--members",
        "diverse",
        "--size",
        "2",
        "--output",
        tmp_path / "Results",
        "--json",
    ]
    for change in (
        "data.spacing_mm=3",
        "data.pad_to_patch=true",
        "train.epochs=1",
        "train.steps_per_epoch=2",
        "model.base_channels=4",
    ):
        options += ["--set", change]
    command = [sys.executable, ROOT / "experiments" / "ensemble.py", *options]
    done = warm.run(command, timeout=900)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["groups"]) == {"plain", "diverse"} and set(told["groups"]["plain"]["dice"]) == {
        "plain 1",
        "plain 2",
        ENSEMBLE,
    }
    folder = tmp_path / "Results" / "ensemble_Run01"
    assert (folder / "ensemble.html").exists() and (folder / "ensemble.json").exists()
    uri = f"sqlite:///{tmp_path / 'Results' / 'mlflow.db'}"
    client = MlflowClient(uri)
    (parent,) = client.search_runs(["1"], "tags.kind = 'study'")
    assert (
        "test/ensemble_plain_flips_post_dice_mean" in parent.data.metrics
        and parent.data.tags["verdict"] == told["verdict"]
    )
    assert "ensemble_cases.json" in {
        file.path for file in client.list_artifacts(parent.info.run_id)
    }
    scan = read_scan(find_cases(cases_folder)[0])
    with as_default(uri):
        predicted = mlflow.pyfunc.load_model("models:/segmamba-ensemble@champion").predict(
            scan.image[None]
        )
    assert predicted.shape == (1, *scan.image.shape[1:]) and predicted.dtype == np.uint8
    again = warm.run(command, timeout=900)
    assert again.returncode == 0 and "reused   4 trials" in again.stderr, again.stderr


def start(home):
    """The script with two tiny members, started in the folder that holds their cases."""
    options = ["--data", "data", "--size", "2", "--cpus", "2", "--resume"]
    for change in (
        "data.spacing_mm=3",
        "data.pad_to_patch=true",
        "train.epochs=1",
        "train.steps_per_epoch=2",
        "model.base_channels=4",
    ):
        options += ["--set", change]
    command = [sys.executable, str(ROOT / "experiments" / "ensemble.py"), *options]
    return warm.Process(command, cwd=home, stderr=subprocess.STDOUT)


def stop(process, line, number):
    """(what it printed, exit code) of a script that gets the signal once a line starts so."""
    printed = []
    for text in process.stdout:
        printed.append(text)
        if text.startswith(line):
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=300)
    return "".join(printed) + rest, process.returncode


def found_in(home):
    """({run name: status}, the model's version, its tags, ensemble.json without its times)."""
    client = MlflowClient(f"sqlite:///{home}/Results/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    (version,) = client.search_model_versions("name = 'segmamba-ensemble'")
    told = json.loads((home / "Results" / "ensemble_Run01" / "ensemble.json").read_text())
    return (
        {run.info.run_name: run.info.status for run in runs},
        version.version,
        version.tags | {"data": None},
        told | {"seconds": None},
    )


@pytest.mark.slow
def test_a_script_that_is_stopped_and_killed_while_it_scores_goes_on_to_the_same_end(tmp_path):
    homes = tmp_path / "calm", tmp_path / "disturbed"
    for home in homes:
        for number in range(6):
            write_case(home / "data", f"BraTS20_Training_{number:03d}", seed=number)
    calm, code = stop(start(homes[0]), "nothing", None)
    assert code == 0 and "(version 1, champion)" in calm, calm
    trained = None
    for line, number, code in (
        ("plain: validation", signal.SIGINT, 130),
        ("plain: test", signal.SIGKILL, -9),
        ("model ", signal.SIGKILL, -9),
    ):
        printed, ended = stop(start(homes[1]), line, number)
        assert ended == code and "Traceback" not in printed, printed
        weights = {
            path: path.stat().st_mtime_ns
            for path in homes[1].glob("Results/*/trials/*/checkpoints/*.pth")
        }
        trained = trained or weights
        assert trained and trained == weights and not list(homes[1].glob("Results/*/ensemble.html"))
        if number == signal.SIGINT:
            assert printed.splitlines()[-1] == STOPPED
    printed, ended = stop(start(homes[1]), "nothing", None)
    assert (
        ended == 0 and "2 of 2 trials are done" in printed and "(version 1, champion)" in printed
    ), printed
    assert found_in(homes[1]) == found_in(homes[0])
    assert trained == {path: path.stat().st_mtime_ns for path in trained}, "the members were kept"


def test_wrong_options_are_one_line(tmp_path):
    for options, told in (
        (["--size", "1"], "at least 2 members"),
        (["--set", "seed=3"], "--set seed"),
    ):
        done = warm.run(
            [sys.executable, ROOT / "experiments" / "ensemble.py", *options], cwd=tmp_path
        )
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, (
            done.stderr
        )
