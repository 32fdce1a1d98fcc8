"""Faulty files among good ones end as a line each: no traceback, no hang, no flood of memory."""

import subprocess
import sys
import time

import pytest

from segmamba.data.case import ERROR
from segmamba.data.cases import list_cases
from segmamba.data.check import check_case
from segmamba.inference.folder import LOG, predict_cases
from segmamba.inference.outputs import DONE, FAILED, Outputs
from segmamba.inference.predictor import load_predictor
from tests.conftest import BRATS_AFFINE, tumour_case, write_case
from tests.faulty_nifti import MUTATIONS, mutant
from tests.inference.conftest import write_run

SHAPE = (24, 20, 16)
IMAGES = ("t1", "t1ce", "t2", "flair")
FILES, LONGEST_S = 550, 10
MOST_BYTES = 2 * 2**30


def write_faulty(folder, seed):
    """A case of which one image is faulty."""
    target = write_case(folder, f"X{seed:04d}", shape=SHAPE, seed=seed % 50, label=False)
    place = (seed // len(MUTATIONS)) % 4
    image = tumour_case(SHAPE, seed % 50)[0][place]
    stem = target / f"{target.name}_{IMAGES[place]}"
    return mutant(image, BRATS_AFFINE, seed).write(stem)


def predict_faulty(home, seeds, **outputs):
    """Predict faulty cases between two good ones; the slowest case in seconds.

    What is checked: each case has its line and its state, good ones are written, nothing raises,
    and a case without an error in `data check` is predicted.
    """
    write_run(home / "run")
    predictor = load_predictor(home / "run", "cpu")
    for name in ("A", "Z"):
        write_case(home / "data", name, shape=SHAPE, label=False)
    for seed in seeds:
        write_faulty(home / "data", seed)
    cases = list_cases(home / "data", "mixed")
    slowest, began, outcomes = 0.0, time.monotonic(), []
    for outcome in predict_cases(predictor, cases, Outputs(home / "out", **outputs)):
        slowest = max(slowest, time.monotonic() - began)
        began = time.monotonic()
        outcomes.append(outcome)
    assert [outcome.case for outcome in outcomes] == [case.id for case in cases]
    assert not (home / "out" / LOG).exists(), (home / "out" / LOG).read_text()
    for case, outcome in zip(cases, outcomes, strict=True):
        errors = [f.text for f in check_case(case).findings if f.severity == ERROR]
        assert outcome.state == (FAILED if errors else DONE), (outcome.error, errors)
        assert outcome.error.startswith(f"{case.id}: " if errors else "")
        assert "\n" not in outcome.error
        assert (home / "out" / f"{case.id}.nii.gz").exists() == (not errors)
    assert outcomes[0].state == outcomes[-1].state == DONE
    return slowest


def test_each_kind_of_faulty_file_is_a_line_or_a_prediction(tmp_path):
    assert predict_faulty(tmp_path, range(len(MUTATIONS))) < LONGEST_S


FUZZ = f"""
import pathlib, resource, sys
from tests.inference.test_faulty_files import predict_faulty
seeds = range(1000, 1000 + {FILES})
slowest_s = predict_faulty(pathlib.Path(sys.argv[1]), seeds, overlay=True, uncertainty=True)
print(slowest_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_hundreds_of_faulty_files_take_neither_long_nor_much_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=FILES * LONGEST_S,
    )
    assert done.returncode == 0, done.stderr
    slowest_s, most_bytes = map(float, done.stdout.splitlines()[-1].split())
    print(f"{FILES} files, the slowest {slowest_s:.1f} s, {most_bytes / 2**20:.0f} MiB")
    assert slowest_s < LONGEST_S and most_bytes < MOST_BYTES
