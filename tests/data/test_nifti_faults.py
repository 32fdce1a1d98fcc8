"""Faulty NIfTI files by the hundred end as findings: no traceback, no hang, no flood of memory.

What `check` passes, the preprocessing cache reads.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pytest

from segmamba.config import DataConfig
from segmamba.data.cases import list_cases
from segmamba.data.check import check, would_fail
from segmamba.data.preprocess import prepare_cases
from segmamba.errors import UserError
from tests.conftest import BRATS_AFFINE, tumour_case, write_case
from tests.faulty_nifti import MUTATIONS, mutant

SHAPE = (24, 24, 20)
FILES, LIMIT_S, LIMIT_BYTES = 660, 10, 2 * 2**30
"""Mutated files of the long test; the longest that one may take; the most memory."""


def outcome(folder, cache, seed):
    """What becomes of a case with one faulty file: "refused", "read" or a traceback."""
    images, label = tumour_case(SHAPE, 0)
    part, array = [("t1ce", images[1]), ("seg", label)][seed // len(MUTATIONS) % 3 == 2]
    spoilt = mutant(array, BRATS_AFFINE, seed)
    spoilt.write(folder / "X" / f"X_{part}")
    try:
        checked = check(folder)
        refused = would_fail(checked)
        texts = [finding.text for case in checked for finding in case.findings]
        assert all("\n" not in text and len(text) < 1500 for text in texts), texts
        try:
            prepare_cases(list_cases(folder), cache, DataConfig(), workers=1)
        except UserError as error:
            assert refused, f"check passes what the cache refuses: {error}"
            assert "X" in str(error)
        else:
            assert not refused, f"the cache reads what check refuses: {texts}"
    except Exception:
        return f"{spoilt.kind}, seed {seed}: {traceback.format_exc()}"
    return "refused" if refused else "read"


def try_seeds(seeds):
    """Outcomes of seeds, each in a case of its own."""
    found = Counter()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "data")
            write_case(folder, "X", shape=SHAPE)
            found[outcome(folder, Path(scratch, "cache"), seed)] += 1
    return found


@pytest.mark.filterwarnings("error")
def test_each_kind_of_fault_ends_as_a_finding_and_check_agrees_with_the_cache():
    found = try_seeds(range(2 * len(MUTATIONS)))
    assert set(found) == {"refused", "read"}, [text for text in found if len(text) > 10]


def _hang(signum, frame):
    raise TimeoutError(f"one file took more than {LIMIT_S} s")


def try_within_limits(first, last):
    """Print the outcomes as JSON; the process has a limit of time a file and of memory."""
    signal.signal(signal.SIGALRM, _hang)
    found = Counter()
    for seed in range(first, last):
        signal.alarm(LIMIT_S)
        found += try_seeds([seed])
    signal.alarm(0)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"outcomes": found, "peak_bytes": peak_bytes}))


@pytest.mark.slow
def test_hundreds_of_faulty_files_give_no_traceback_no_hang_and_no_flood_of_memory():
    program = (
        "import sys; from tests.data.test_nifti_faults import try_within_limits; "
        f"try_within_limits(0, {FILES})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["outcomes"]) == {"refused", "read"}, "\n".join(result["outcomes"])
    assert sum(result["outcomes"].values()) == FILES >= 500
    assert min(result["outcomes"].values()) > FILES / 20, "both ends are reached"
    assert result["peak_bytes"] < LIMIT_BYTES
