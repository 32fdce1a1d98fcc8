"""One folder in which every command of the documentation can be run, and how it is run there.

It holds what the pages take for granted: data under several names, trained runs, studies, an
ensemble and registered models, all tiny. Words that stand for something of the reader's, such as
/path/to/brats, are replaced; the rest of a command is run as the page has it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nibabel
import numpy as np

from tests.conftest import NEW_NAMES, write_case

ROOT = Path(__file__).parents[2]
LIMIT_S = 900
SHAPE = (48, 48, 48)
DEEP = ("--arms", "depth 2", "--arms", "depth 4", "--seeds", "1")
SEEDS_AND_MORE = {"--seeds", "--max-seeds", "--plan", "--help", "--folds", "--resume", "--trials"}
"""Options with which a study's number of trials is not limited here."""
NEEDED = {
    "experiments/ablate_patch_size.py": ["--set", "train.steps_per_epoch=16"],
    "experiments/compare_baselines.py": ["--set", "model.base_channels=8"],
    "pbt": ["--set", "train.epochs=4"],
}
"""What a script, or a word of its command, needs where presets are tiny: steps that can be shared
out, SegResNet's groups, a population's rounds."""
NOT_RUN = {
    "pip ": "installs packages; .ci/run installs from constraints.txt",
    "make test": "runs these tests",
    "make setup-gpu": "compiles for a GPU",
    "python benchmarks/": "measured by hand, for benchmarks/README.md; tests/benchmarks runs them",
    "python -m monai.bundle run": "half a command; tests/inference/test_export.py runs a bundle",
    "segmamba --install-completion": "tests/test_cli.py runs it where it changes no user's shell",
    "mlflow server --host 10.0.0.1": "needs that machine; `mlflow ui` is run",
    "python experiments/ablate_depth.py --preset quick --data /shared/brats": "needs a cluster; "
    "tests/orchestration/test_cluster.py starts one",
    "segmamba predict --checkpoint final_model_0.9038.pt": "needs the authors' file; "
    "tests/models tests the reading of such files",
}
"""Beginnings of commands that no test here runs, and why."""
REPLACED = {
    "/path/to/brats-ped": "ped",
    "/path/to/LUMIERE": "lumiere",
    "/path/to/brats": "brats",
    "/path/to/cases": "cases",
    "DIR": "brats",
    r"(P\d+)_": r"(Training_\d+)",
    "Results/My_Run1": "Results/SegMamba_Run01",
    "RUN": "Results/SegMamba_Run01",
    "STUDY": "ablate_depth_Run01",
    "A": "predictions",
    "B": "nnunet_predictions",
    "data.patch_size=128,128,128": "data.patch_size=32,32,32",
}
LOSS_STUDY = '''"""Which loss?"""
from segmamba.studies import Hypothesis, StudySpec

STUDY = StudySpec(
    name="ablate_loss",
    question="Which loss?",
    hypothesis=Hypothesis(claim="Dice alone.", region="WT", better="dice", than="both"),
    baseline="both",
    arms={"both": {}, "dice": {"loss.ce_weight": 0.0}},
)
'''


LUMIERE = "{{patient}}/{{session}}/DeepBraTumIA-segmentation/atlas/skull_strip/{}.nii.gz"
LUMIERE_NAMES = {
    "T1": "t1_skull_strip",
    "T1ce": "ct1_skull_strip",
    "T2": "t2_skull_strip",
    "FLAIR": "flair_skull_strip",
}


class Workspace:
    """The folder, and processes in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/docs/tiny_presets"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder),
        }
        self.run_id = ""

    def run(self, *words: str) -> str:
        """Run a command of segmamba's or a script of the repository's; what it prints."""
        program = {"segmamba": ["-m", "segmamba.cli"], "mlflow": ["-m", "mlflow"]}
        first, *rest = words
        start = program.get(first, [])
        if first == "python":
            start, rest = [str(ROOT / rest[0])], rest[1:]
        return self.process([sys.executable, *start, *rest])

    def process(self, words: list[str], cwd: Path | None = None) -> str:
        ended = subprocess.run(
            words,
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert ended.returncode == 0, f"{words}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout

    def make(self, tutorial: str) -> None:
        """Make what the pages take for granted."""
        for number in range(8):
            write_case(self.folder / "brats", f"BraTS20_Training_{number:03d}", shape=SHAPE)
            ped = self.folder / "ped"
            write_case(ped, f"BraTS-PED-{number:05d}-000", shape=SHAPE, names=NEW_NAMES)
        for number in range(2):
            write_case(self.folder / "cases", f"BraTS20_Training_{number:03d}", shape=SHAPE)
        write_named_cases(self.folder)
        for name, ending in {"T1": "t1", "T1ce": "t1ce", "T2": "t2", "FLAIR": "flair"}.items():
            case = self.folder / "brats" / "BraTS20_Training_000"
            shutil.copy(case / f"{case.name}_{ending}.nii.gz", self.folder / f"{name}.nii.gz")
        (self.folder / "lumiere.toml").write_text(
            "\n".join(f'{m} = "{LUMIERE.format(name)}"' for m, name in LUMIERE_NAMES.items())
        )
        (self.folder / "patients.csv").write_text(
            "case,patient\n" + "".join(f"BraTS20_Training_{n:03d},P{n}\n" for n in range(8))
        )
        (self.folder / "my_study.py").write_text(tutorial)
        (self.folder / "ablate_loss.py").write_text(LOSS_STUDY)
        for _ in range(2):
            self.run("segmamba", "train", "--preset", "demo")
            self.run("python", "experiments/ablate_depth.py", *DEEP, "--fresh")
        self.run("segmamba", "study", "ablate_loss.py", "--seeds", "1")
        self.run("segmamba", "pretrain", "--preset", "demo", "--epochs", "1")
        self.run("segmamba", "ensemble")
        self.run("segmamba", "study", "my_study.py", "--seeds", "1")
        for output in ("predictions", "nnunet_predictions"):
            run = "Results/SegMamba_Run01"
            options = ("--checkpoint", run, "--input", "brats", "--output", output)
            self.run("segmamba", "predict", *options)
        self.run_id = self._run_id()

    def _run_id(self) -> str:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder}/Results/mlflow.db")
        experiment = client.get_experiment_by_name("segmamba").experiment_id
        return client.search_runs([experiment], "tags.kind = 'train'")[0].info.run_id

    def run_shown(self, words: list[str]) -> None:
        """Run a command as a page shows it."""
        named = "deep" if "T1={case}/pre.nii.gz" in words else "flat"
        words = [named if word == "/path/to/data" else self._replaced(word) for word in words]
        if words[:2] == ["mlflow", "ui"]:
            self._serve(words[2:])
        elif words[0] == "make":
            # The targets run other commands of these pages, which are run here as they are.
            self.process(["make", "-n", *words[1:]], ROOT)
        else:
            words = [path for word in words for path in self._expanded(word)]
            if words[1] == "compare-studies":  # the newest may be another page's, on other cases
                words = [re.sub(r"^(ablate_[a-z]+)$", r"\1_Run01", word) for word in words]
            needed = [option for word in words for option in NEEDED.get(word, [])]
            self.run(*words, *self._limits(words), *needed)

    def _replaced(self, word: str) -> str:
        word = word.replace("RUN_ID", self.run_id)
        return REPLACED.get(word, word)

    def _expanded(self, word: str) -> list[str]:
        """What a shell makes of `folder/*`."""
        if word.endswith("/*"):
            return sorted(str(path) for path in self.folder.glob(word))
        return [word]

    @staticmethod
    def _limits(words: list[str]) -> list[str]:
        """One seed for studies that a page lets take as many as their claims need."""
        is_study = words[1].startswith("experiments/") or words[1] == "study"
        if not is_study or SEEDS_AND_MORE & set(words) or "ablate_inference" in words[1]:
            return []
        return [] if "ensemble" in words[1] else ["--seeds", "1"]

    def _serve(self, words: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [sys.executable, "-m", "mlflow", "ui", *words, "--port", port]
        server = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, start_new_session=True
        )
        deadline = time.monotonic() + LIMIT_S
        try:
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        return
                except OSError:
                    assert server.poll() is None and time.monotonic() < deadline
                    time.sleep(0.3)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def reason_not_to_run(text: str) -> str:
    """Why a command is run by no test here; empty where it is."""
    return next((why for start, why in NOT_RUN.items() if text.startswith(start)), "")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def write_named_cases(folder: Path) -> None:
    """Cases in the three ways that how-to/own-data.md names files."""
    rng = np.random.default_rng(0)

    def save(path: Path, values: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)

    def image() -> np.ndarray:
        return rng.integers(1, 400, SHAPE).astype(np.int16)

    label = np.zeros(SHAPE, np.uint8)
    label[10:30, 10:30, 10:30], label[14:20, 14:20, 14:20] = 2, 1
    for case in ("P1", "P2"):
        flat = folder / "flat" / case
        for name in ("T1", "T1GD", "T2", "FLAIR"):
            save(flat / f"{case}_{name}.nii.gz", image())
        save(flat / f"{case}_segm.nii.gz", label)
        for name in ("pre", "post1", "t2", "flair"):
            save(folder / "deep" / case / f"{name}.nii.gz", image())
        save(folder / "deep" / "masks" / f"{case}.nii.gz", label)
        for name in LUMIERE_NAMES.values():
            path = LUMIERE.format(name).format(patient=case, session="week-000-1")
            save(folder / "lumiere" / path, image())
