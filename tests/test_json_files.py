"""The one reader of JSON, and every file that is read with it, under faulty content."""

import dataclasses
import json
import os
import resource
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typing_extensions import NotRequired, TypedDict

from segmamba.config import Config, load_config, load_postprocess
from segmamba.config.postprocess import PostprocessConfig
from segmamba.data.layouts import datalist, dataset_json
from segmamba.data.phantom import write_phantom
from segmamba.data.prepared_case import PreparedCase
from segmamba.data.splits_file import read_ids, read_splits
from segmamba.errors import UserError
from segmamba.evaluation.segmentations import _declared
from segmamba.json_files import MOST_BYTES, parse_json, read_json
from segmamba.orchestration.engine.failures import failures_file, read_failures
from segmamba.orchestration.engine.measuring import _read as read_rehearsals
from segmamba.orchestration.engine.population_rounds import Rounds
from segmamba.orchestration.single import _unfinished
from segmamba.orchestration.tracking.store import Store
from segmamba.orchestration.tracking.study_reader import read_study
from segmamba.orchestration.tracking.study_run import StudyRun
from segmamba.training.final_metrics import read_final_metrics
from segmamba.training.pretrain_run import read_pretraining
from segmamba.training.record import read_environment
from segmamba.training.run_folder import RunFolder
from tests.json_faults import faulty
from tests.studies.synthetic import synthetic_study


class Entry(TypedDict):
    name: str
    values: NotRequired[dict[str, int | list[int]]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": 3}', "$.name: expected text, found 3"),
        ("{}", '$: "name" is missing'),
        ('{"name": "a", "values": {"a b": null}}', '$.values["a b"]: expected an integer or a'),
        ('{"name": "a", "values": {"x": [1, true]}}', "$.values.x[1]: expected an integer, found"),
        ('{"name": "a", "name": "b"}', '$: the name "name" stands twice in one object'),
        ('{"name": "a", "other": [{"b": 1, "b": 1}]}', '$.other[0]: the name "b" stands twice'),
        ('{"name": "a", "other": NaN}', "$.other: a number that is not finite"),
        ('{"name": "a", "other": 1e999}', "$.other: a number that is not finite"),
        (f'{{"name": "a", "other": {10**400}}}', "$.other: an integer of more than 64 bits"),
        ("", "the file is empty"),
        ("null", "$: expected an object, found null"),
        ('{"name": "a", "other": ' + "[" * 200_000, "nested too deeply"),
        ('{"name": "a", "other": ' + "[" * 300 + "]" * 300 + "}", "recursion limit exceeded"),
        (
            '{"name": "a", "b": [' + "1," * 9000 + "[" * 900 + "]" * 901 + "}",
            "recursion limit exce",
        ),
        ("[" + "1," * 2**20 + "1]", "more than 262144 values"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place_and_what_was_expected(text, message):
    with pytest.raises(UserError) as caught:
        parse_json(text, Entry, source="file.json", fix="mend it")
    assert str(caught.value).startswith("file.json: ") and message in str(caught.value)
    assert str(caught.value).endswith("; mend it") and len(str(caught.value)) < 300


def test_many_wrong_values_are_counted_only_as_far_as_that_is_cheap():
    with pytest.raises(UserError, match=r"\$\[0\]: expected text, found 1 \(and 2 more wrong"):
        parse_json("[1, 2, 3]", list[str], source="f")
    with pytest.raises(UserError, match=r"\$\[0\]: expected text, found 1 \(and more than 1000"):
        parse_json("[" + "1," * 5000 + "1]", list[str], source="f")
    late = '["a",' + '"a",' * 100 + "1," * 5000 + "1]"
    with pytest.raises(UserError, match="more than 1000 values are of the wrong type"):
        parse_json(late, list[str], source="f")


def test_values_come_back_as_they_were_written(tmp_path):
    content = {"epoch": 3, "loss": 0.1 + 0.2, "tiny": 5e-324, "name": "Größe \u20ac"}
    (tmp_path / "f.json").write_text(json.dumps(content), encoding="utf-8-sig")
    again = read_json(tmp_path / "f.json", dict[str, int | float | str])
    assert again == content and isinstance(again["epoch"], int)
    prose = {"git_diff": 'a, "b"\\\n' * 300_000}
    assert parse_json(json.dumps(prose), dict[str, str], source="f") == prose


def test_what_is_no_regular_file_or_too_large_is_refused_without_reading_it(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**30)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name, message in (
        ("large", f"has 1024 MiB, more than the {MOST_BYTES // 2**20} MiB"),
        ("pipe", "it is no regular file"),
        ("folder", "it is a folder"),
        ("absent", "No such file"),
        ("zero\0byte", "null (byte|character)"),
    ):
        with pytest.raises(UserError, match=message):
            read_json(tmp_path / f"{name}.json", dict[str, Any])


# Every reader: the file that it reads, a good content, and the call that reads it.


def run_folder(path):
    return RunFolder(path.parents[1] if path.parent.name in ("metrics", "logs") else path.parent)


class Artifacts:
    """A store whose runs are a parent with one trial, and whose artifacts are the files beside."""

    uri = "files"
    page = ""
    artifact, artifact_json = Store.artifact, Store.artifact_json

    def __init__(self, folder, tags):
        arm, seed = "depth 0", "0"
        trial = {"trial": f"{arm}, seed {seed}", "arm": arm, "seed": seed}
        self.runs = {
            "parent": {"starts": "2", "earlier_s": "3.0"} | tags,
            "child": trial | {"changes": '{"data.patch_size": [16, 16, 16]}'},
        }
        self.client = SimpleNamespace(
            get_run=self.run,
            download_artifacts=lambda run_id, name, into=None: str(folder / name),
            get_metric_history=lambda run_id, name: [],
        )

    def run(self, run_id):
        data = SimpleNamespace(tags=self.runs[run_id], params={}, metrics={})
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, status="FINISHED"), data=data)

    def search(self, condition):
        return [self.run("child")]

    def json_of(self, run, name, expected):
        return self.artifact_json(run.info.run_id, name, expected)


def study_content():
    stored = json.loads(json.dumps(dataclasses.asdict(synthetic_study(seeds=1, cases=2))))
    for name in ("trials", "searched", "importance", "schedule"):
        del stored[name]
    return stored | {"round_every": 1}


TABLE = {"columns": ["case", "dice_WT"], "data": [["a", 0.5], ["b", None]]}
SCHEDULE = [{"epoch": 0, "changes": {"optim.lr": 0.1}, "donor": ""}]
TAGS = {"found": {"optim.lr": 0.1}, "importance": {"optim.lr": 1.0}}


def read_stored_study(path):
    """Read a study of which one file, or the tags in one file, are those at `path`."""
    for name, good in (
        ("study.json", study_content()),
        ("test_cases.json", TABLE),
        ("schedule.json", SCHEDULE),
        ("found.json", TAGS["found"]),
        ("importance.json", TAGS["importance"]),
    ):
        if not (path.parent / name).exists():
            (path.parent / name).write_text(json.dumps(good))
    texts = {name: (path.parent / f"{name}.json").read_bytes().decode("latin-1") for name in TAGS}
    return read_study(StudyRun(Artifacts(path.parent, texts), "parent"))


def measured_before(path):
    """Read rehearsals; a faulty file is none, and the trial is measured again."""
    found = read_rehearsals(path)
    if found is None:
        raise UserError(path)
    return found


EPOCHS = [
    {"epoch": n, "train/loss": 0.5, "train/lr": 1, "time/train_s": 2.0, "val/dice_mean": 0.1}
    for n in (1, 2)
]
READERS = {
    "dataset.json": (
        {
            "channel_names": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
            "labels": {"background": 0, "WT": [1, 2, 3], "TC": [2, 3], "ET": 3},
            "numTraining": 2,
        },
        lambda path: dataset_json.list_cases(path.parent, "brats2018"),
    ),
    "Decathlon/dataset.json": (
        {
            "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
            "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "et"},
        },
        lambda path: dataset_json.list_cases(path.parent, "brats2018"),
    ),
    "beside predictions/dataset.json": (
        {"labels": {"background": 0, "WT": [1, 2, 4], "TC": [1, 4], "ET": 4}},
        lambda path: _declared(path.parent, "--labels"),
    ),
    "datalist.json": (
        {
            "modality": ["FLAIR", "T1", "T1ce", "T2"],
            "training": [{"image": "a.nii.gz", "label": "b.nii.gz", "fold": 0}, "c.nii.gz"],
            "testing": [{"image": ["a_t1.nii", "a_t1ce.nii", "a_t2.nii", "a_flair.nii"]}],
        },
        lambda path: datalist.list_cases(path, "brats2018"),
    ),
    "folds.json": (
        {"training": [{"image": "a.nii", "fold": 0}, {"image": "b.nii", "fold": 1, "id": "b"}]},
        read_splits,
    ),
    "splits_final.json": ([{"train": ["a", "b"], "val": ["c"]}] * 2, read_splits),
    "holdout.json": (["a", "b"], lambda path: read_ids(path, {"a", "b"})),
    "config.json": (json.loads(Config().to_json()), load_config),
    "postprocessing.json": (json.loads(PostprocessConfig().to_json()), load_postprocess),
    "case.json": (
        {
            "id": "a",
            "patient": "a",
            "image_digests": ["0f"],
            "shape": [4, 4, 4],
            "offset": [0, 0, 0],
            "working_shape": [4, 4, 4],
            "source_shape": [4, 4, 4],
            "source_spacing_mm": [1.0, 1, 1],
            "source_affine": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 1]],
            "classes": [1, 2],
            "findings": [],
            "label_set": "glioma",
        },
        lambda path: PreparedCase.read(path.parent).margins,
    ),
    "phantom.json": (
        {"generator": 2, "cases": 1, "size": [48, 48, 48], "seed": 0},
        lambda path: write_phantom(path.parent, cases=1, size=(48, 48, 48), seed=0),
    ),
    "metrics/history.json": (EPOCHS, lambda path: run_folder(path).read_history(5)),
    "metrics/pretraining.json": (
        [{"epoch": 1, "time/pretrain_s": 1.0}],
        lambda path: read_pretraining(run_folder(path)),
    ),
    "metrics/final_metrics.json": (
        {
            "tested_checkpoint": "best",
            "tested_epoch": 2,
            "epochs": 3,
            "weights_sha256": {"last": "0"},
            "test/dice_mean": 0.5,
            "cases": [{"case": "a", "dice_mean": 0.5}],
            "last_cases": [{"case": "a", "dice_mean": 0.5}],
        },
        lambda path: read_final_metrics(path).cases_with_last(),
    ),
    "environment.json": (
        {
            "environment": {"python": "3", "threads": "2"},
            "git_diff": "",
            "packages": {"a": "1"},
            "data_sha256": "0",
            "split": {"train": ["a"], "validation": [], "test": [], "unlabelled": []},
            "test_is_validation": False,
            "resumed": [{"after_epoch": 1, "environment": {"python": "4"}, "git_diff": ""}],
        },
        read_environment,
    ),
    "S_Run01/run.json": (
        {"key": "0", "finished": False},
        lambda path: _unfinished(path.parents[1], "S"),
    ),
    "logs/deaths.json": (
        [{"epoch": 1, "memory": True, "reason": "a"}],
        lambda path: read_failures(path.parents[1]),
    ),
    "population.json": (
        {
            "done": 2,
            "members": {
                "a": [{"epoch": 0, "changes": {"optim.lr": 0.1}, "donor": "", "checkpoint": ""}],
                "b": [
                    {"epoch": 0, "changes": {"optim.betas": [0.1, 0.2]}},
                    {"epoch": 1, "changes": {}, "donor": "a", "checkpoint": "x"},
                ],
            },
        },
        lambda path: [
            rounds.lineage(arm) for rounds in [Rounds(path.parent, 1)] for arm in rounds.members
        ],
    ),
    "rehearsals.json": (
        [
            dict.fromkeys(("step_s", "warm_up_s", "validate_case_s", "test_case_s"), 0.5)
            | dict.fromkeys(("peak_bytes", "weights_bytes", "resume_bytes"), 3)
        ],
        measured_before,
    ),
    "study.json": (study_content(), read_stored_study),
    "test_cases.json": (TABLE, read_stored_study),
    "schedule.json": (SCHEDULE, read_stored_study),
    "found.json": (TAGS["found"], read_stored_study),
    "importance.json": (TAGS["importance"], read_stored_study),
}


@pytest.mark.parametrize("text", ["x", "", "nan", "[1]", "1e999"])
def test_a_tag_that_is_no_number_is_named(tmp_path, text):
    store = Artifacts(tmp_path, {"starts": text})
    (tmp_path / "study.json").write_text(json.dumps(study_content()))
    with pytest.raises(UserError, match=r"tag starts of run parent: .*; set"):
        read_study(StudyRun(store, "parent"))
    store.runs["parent"] |= {"starts": "1", "earlier_s": text or "x"}
    with pytest.raises(UserError, match=r"tag earlier_s of run parent: .*; set"):
        read_study(StudyRun(store, "parent"))


def placed(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert read_failures(folder) == [] and failures_file(folder).name == "deaths.json"
    return path


@pytest.mark.parametrize("name", READERS)
def test_every_reader_reads_what_is_good(tmp_path, name):
    content, read = READERS[name]
    path = placed(tmp_path, name)
    path.write_text(json.dumps(content))
    assert read(path) is not None


def check_faults(folder, name, faults):
    """Feed faulty files to a reader; return how many it refused, each with one clear line."""
    _, read = READERS[name]
    refused = 0
    for number, (fault, content) in enumerate(faults):
        path = placed(folder / str(number), name)
        path.write_bytes(content)
        began = time.monotonic()
        try:
            read(path)
        except UserError as error:
            line, refused = str(error), refused + 1
            assert "\n" not in line and len(line) < 1000, (fault, line)
            assert Path(name).name.removesuffix(".json") in line or path.parent.name in line, line
        except Exception as error:
            raise AssertionError(f"{name}, {fault}: {error!r}") from error
        assert time.monotonic() - began < 10, f"{name}, {fault}: took too long"
    return refused


@pytest.mark.parametrize("name", READERS)
def test_a_faulty_file_is_read_or_refused_in_one_line(tmp_path, name):
    assert check_faults(tmp_path, name, faulty(READERS[name][0], 6, seed=name))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_mutation_of_a_file_ends_in_a_traceback(tmp_path, name):
    faults = faulty(READERS[name][0], 80, seed=f"long {name}")
    assert check_faults(tmp_path, name, faults) >= 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 2**20, "2 GiB"


def test_the_long_test_makes_more_than_700_mutations():
    assert 80 * len(READERS) > 700


NO_FILES = {"rehearsals.json", "found.json", "importance.json", "beside predictions/dataset.json"}
"""Measured again; tags; and a folder of predictions may have any folders."""


@pytest.mark.parametrize("name", [name for name in READERS if name not in NO_FILES])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, name):
    path = placed(tmp_path, name)
    path.mkdir()
    _, read = READERS[name]
    with pytest.raises(UserError, match="is a folder"):
        read(path)
