"""Evidence: the parts of a page run one after another, and read back from MLflow for it."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.json_files import read_json
from segmamba.orchestration.listing import existing_store
from segmamba.orchestration.tracking.study_reader import newest_study, read_study
from segmamba.orchestration.tracking.study_run import StudyRun
from segmamba.orchestration.tracking.study_text import NOTE_TAG, text
from segmamba.reports.evidence import Part
from segmamba.studies.evidence import MEMBERS, PHANTOMS_WEIGHTS, EvidencePart
from segmamba.studies.spec import ALL_ARMS
from segmamba.training.run_folder import RunFolder

if TYPE_CHECKING:
    from segmamba.studies.results import Study

PHANTOMS = "phantoms"
"""The folder, in that of the results, of what ran on phantoms."""
WEIGHTS = "weights"
"""In that folder, the folder of the network that others start from."""
STOPPED_CODE = 130
OPTIONS_FILE = "evidence.json"
"""In the folder of the results: what all parts there were asked with."""
PLACES = {"--data": "DATA", "--output": "RESULTS", "--checkpoint": "RUN", "--cache": "CACHE"}
"""Options whose values are a machine's own folders, to what a page shows in their place."""


@dataclass(frozen=True, kw_only=True)
class EvidenceOptions:
    """What the user chose."""

    data: Path
    labels: str
    names: tuple[str, ...]
    preset: str
    seeds: str
    folds: int
    changes: tuple[str, ...]
    """Assignments, as --set takes them."""
    gpus_per_trial: str
    cpus: int
    full: bool
    """Whether each study runs all its arms."""
    output: Path


class EvidenceRunner:
    """Runs the parts that have not ended yet, each as its own command.

    Args:
        options: What the user chose.
        scripts: The folder of the studies' scripts.
        say: Takes a line on what begins or is left out.

    Raises:
        UserError: The folder of results holds parts that were asked with other options.
    """

    def __init__(
        self, options: EvidenceOptions, scripts: Path, say: Callable[[str], object]
    ) -> None:
        self.options = options
        self._check_options()
        self._scripts = scripts
        self._say = say

    def _check_options(self) -> None:
        """Note the options that decide the results, or compare them with those noted before."""
        asked = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self.options).items()
            if name not in ("data", "output", "gpus_per_trial", "cpus")
        }
        file = self.options.output / OPTIONS_FILE
        before = read_json(file, dict) if file.exists() else asked
        for name, value in asked.items():
            if before.get(name) != value:
                raise UserError(
                    f"--{name}: the parts in {self.options.output} were run with "
                    f"{before.get(name)!r}, not {value!r}; give that, or another --output"
                )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asked)

    def run(self, part: EvidencePart, *, phantoms: bool = False) -> int:
        """Run a part, or go on with it.

        Args:
            part: The part.
            phantoms: Whether to run it on phantoms in place of the data.

        Returns:
            The exit code of its command, 130 where the user stopped it; 0 where it has ended before
            or is a note, 2 where it needs what another part has not made.
        """
        results = results_of(self.options.output, phantoms=phantoms)
        title = f"{part.name}{' on phantoms' if phantoms else ''}"
        if part.kind == "note":
            return 0
        newest = _newest(results, part.name)
        if newest is not None and _has_ended(newest, part):
            self._say(f"done     {title}")
            return 0
        if part.from_phantoms and (code := self._train_on_phantoms()):
            return code
        try:
            arguments = self._arguments(part, phantoms=phantoms)
        except UserError as error:
            self._say(f"left out {title}: {error}")
            return 2
        goes_on = part.kind != "inference" and newest is not None
        self._say(f"begins   {title}")
        script = self._scripts / f"{part.name}.py"
        return _call([str(script), *arguments, *(["--resume"] if goes_on else [])])

    def _train_on_phantoms(self) -> int:
        """Train the network that others start from, unless it is there; return the exit code."""
        if _trained_on_phantoms(self.options.output) is not None:
            return 0
        self._say("begins   a network on phantoms, to start from")
        arguments = ["train", "--resume", "--preset", self.options.preset]
        arguments += _repeated("--set", self.options.changes)
        arguments += ["--output", str(_weights_folder(self.options.output))]
        return _call(["-m", "segmamba.cli", *arguments])

    def _arguments(self, part: EvidencePart, *, phantoms: bool) -> list[str]:
        """The command line of a part, without its script.

        Raises:
            UserError: It needs what another part has not made.
        """
        options = self.options
        arguments = list(self._filled(part.options))
        if not phantoms:
            arguments += ["--data", str(options.data), "--labels", options.labels]
            arguments += _repeated("--names", options.names)
        arguments += ["--output", str(results_of(options.output, phantoms=phantoms))]
        if part.kind == "inference":
            return arguments
        arguments += ["--preset", options.preset, "--no-viewer", "--cpus", str(options.cpus)]
        arguments += _repeated("--set", options.changes)
        if options.gpus_per_trial:
            arguments += ["--gpus-per-trial", options.gpus_per_trial]
        if part.kind == "study":
            arms = (ALL_ARMS,) if options.full else part.arms
            arguments += ["--folds", str(options.folds), "--seeds", options.seeds]
            arguments += _repeated("--arms", arms)
        return arguments

    def _filled(self, words: Sequence[str]) -> Iterator[str]:
        """A part's own options with what stands in for their placeholders."""
        before = ""
        for word in words:
            if PHANTOMS_WEIGHTS in word:
                trained = _trained_on_phantoms(self.options.output)
                if trained is None:
                    raise UserError("it takes a network trained on phantoms, and there is none")
                yield word.replace(PHANTOMS_WEIGHTS, str(trained.best))
            elif word == MEMBERS:
                first, *others = _members(self.options.output)
                yield first
                yield from _repeated(before, others)
            else:
                yield word
            before = word


def read_parts(parts: Sequence[EvidencePart], output: Path) -> list[Part]:
    """What the page tells of each part, as it stands.

    Args:
        parts: The parts, in the page's order.
        output: The folder of the results.

    Returns:
        A Part for each; one that has not run has neither a study nor a note.
    """
    return [_part(part, output) for part in parts]


def results_of(output: Path, *, phantoms: bool) -> Path:
    """The folder of results of the parts on the data, or of those on phantoms."""
    return output / PHANTOMS if phantoms else output


def _weights_folder(output: Path) -> Path:
    """The folder of results of the network on phantoms that others start from."""
    return results_of(output, phantoms=True) / WEIGHTS


def _trained_on_phantoms(output: Path) -> RunFolder | None:
    """The run that trained it, once it has been tested."""
    tested = sorted(_weights_folder(output).glob("*/metrics/final_metrics.json"))
    return RunFolder(tested[0].parents[1]) if tested else None


def _part(part: EvidencePart, output: Path) -> Part:
    told = Part(name=part.name, title=part.title)
    run, twin = (_newest(results_of(output, phantoms=there), part.name) for there in (False, True))
    if run is None:
        file = output / f"{part.name}.md"
        return replace(told, note=file.read_text(encoding="utf-8") if file.exists() else "")
    began = run.store.client.get_run(run.run_id)
    told = replace(told, day=time.strftime("%Y-%m-%d", time.gmtime(began.info.start_time / 1000)))
    tags = began.data.tags
    if part.kind != "study":
        best = tags.get("best_arm", "")
        ended = began.info.status == "FINISHED"
        return replace(
            told,
            command=without_places(tags.get("mlflow.source.name", "")),
            note=_without_dataset(tags.get(NOTE_TAG, ""), tags) if ended else "",
            answer=tags.get("verdict", "") or f"{best} scores highest on mean Dice.",
            picture=_artifact(run, part.picture),
        )
    study = _read(run)
    return replace(
        told,
        command=without_places(study.command),
        study=study,
        twin=_read(twin) if twin else None,
    )


def _artifact(run: StudyRun, name: str) -> bytes:
    """The bytes of an artifact; none where it is not there."""
    if not name or not run.store.has_artifact(run.run_id, name):
        return b""
    with run.store.artifact(run.run_id, name) as file:
        return file.read_bytes()


def _read(run: StudyRun) -> Study:
    return read_study(run, histories=False)


def without_places(command: str) -> str:
    """A command line whose folders are words, so that a page can be shown elsewhere.

    Args:
        command: As a shell takes it.

    Returns:
        The same with `--data DATA` and the like; an option that says the same twice says it once,
        and a script is named in its own folder.
    """
    shown: list[str] = []
    words = iter(shlex.split(command))
    for word in words:
        name, equals, value = word.partition("=")
        if word in PLACES:
            next(words, None)
            pair = [word, PLACES[word]]
        elif name in PLACES:
            pair = [name, PLACES[name]]
        elif equals and "/" in value:
            pair = [f"{name}=FILE"]
        elif word.startswith("/"):
            pair = ["/".join(Path(word).parts[-2:])]
        else:
            pair = [word]
        if not (len(pair) == 2 and shown[-2:] == pair):
            shown += pair
    return shlex.join(shown)


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _newest(results: Path, name: str) -> StudyRun | None:
    """The newest run of a study in a folder of results, if it ran there."""
    store = existing_store(results)
    return newest_study(store, name, results.resolve()) if store else None


def _has_ended(run: StudyRun, part: EvidencePart) -> bool:
    """Whether nothing of a part is left to run; trials that failed run again."""
    if run.store.client.get_run(run.run_id).info.status != "FINISHED":
        return False
    return part.kind == "inference" or not _read(run).to_run_again


def _without_dataset(note: str, tags: Mapping[str, str]) -> str:
    """A note without the folder of the data, which it may name."""
    place = tags.get("dataset", "")
    for shown in (place, text(place)) if place else ():
        note = note.replace(shown, "the data")
    return note


def _members(output: Path) -> list[str]:
    """The folders of the networks that differ in nothing but the seed.

    Raises:
        UserError: The ensemble has not been trained.
    """
    run = _newest(output, "ensemble")
    study = _read(run) if run else None
    trials = study.trials if study else ()
    plain = [trial for trial in trials if study and set(study.arms[trial.arm]) <= {"seed"}]
    folders = [trial.folder for trial in plain if trial.status == "FINISHED"]
    if not folders:
        raise UserError("it takes the ensemble's networks, and none has been trained")
    return folders


def _call(arguments: Sequence[str]) -> int:
    """Run Python on arguments until it ends, and return its exit code; 130 where it was to stop.

    A SIGTERM goes on to it; Ctrl-C reaches it as this process. Either way it ends in its own order.
    """
    stops: list[int] = []
    with subprocess.Popen([sys.executable, *arguments]) as child, _passing_on(child, stops):
        while True:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                stops.append(signal.SIGINT)
            else:
                return STOPPED_CODE if stops else code


@contextmanager
def _passing_on(child: subprocess.Popen[bytes], stops: list[int]) -> Iterator[None]:
    """While the block runs, send a SIGTERM of this process on to its child, and note it."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        stops.append(number)
        child.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
