"""Evidence: the parts of a page run one after another, and read back from MLflow for it."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from segmamba.errors import UserError
from segmamba.orchestration.listing import existing_store
from segmamba.orchestration.tracking.study_reader import (
    find_study,
    read_study,
    unfinished_study,
)
from segmamba.orchestration.tracking.study_run import StudyRun
from segmamba.orchestration.tracking.study_text import NOTE_TAG
from segmamba.reports.evidence import Part
from segmamba.studies.evidence import MEMBERS, EvidencePart
from segmamba.studies.spec import ALL_ARMS

if TYPE_CHECKING:
    from segmamba.studies.results import Study

PHANTOMS = "phantoms"
"""The folder, in that of the results, of what ran on phantoms."""
STOPPED_CODES = (130, 143)
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
    """

    def __init__(
        self, options: EvidenceOptions, scripts: Path, say: Callable[[str], object]
    ) -> None:
        self.options = options
        self._scripts = scripts
        self._say = say

    def run(self, part: EvidencePart, *, phantoms: bool = False) -> int:
        """Run a part, or go on with it.

        Args:
            part: The part.
            phantoms: Whether to run it on phantoms in place of the data.

        Returns:
            The exit code of its command; 0 where it has ended before or is a note, 2 where it needs
            what another part has not made.
        """
        results = results_of(self.options.output, phantoms=phantoms)
        title = f"{part.name}{' on phantoms' if phantoms else ''}"
        if part.kind == "note":
            return 0
        if _has_ended(results, part.name):
            self._say(f"done     {title}")
            return 0
        try:
            arguments = self._arguments(part, phantoms=phantoms)
        except UserError as error:
            self._say(f"left out {title}: {error}")
            return 2
        goes_on = part.kind != "inference" and _unfinished(results, part.name)
        self._say(f"begins   {title}")
        script = self._scripts / f"{part.name}.py"
        return _call([str(script), *arguments, *(["--resume"] if goes_on else [])])

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
            if word == MEMBERS:
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


def _part(part: EvidencePart, output: Path) -> Part:
    told = Part(name=part.name, title=part.title)
    run, twin = (_newest(results_of(output, phantoms=there), part.name) for there in (False, True))
    if run is None:
        file = output / f"{part.name}.md"
        return replace(told, note=file.read_text(encoding="utf-8") if file.exists() else "")
    began = run.store.client.get_run(run.run_id)
    told = replace(told, day=time.strftime("%Y-%m-%d", time.gmtime(began.info.start_time / 1000)))
    if part.kind != "study":
        command = began.data.tags.get("mlflow.source.name", "")
        note = began.data.tags.get(NOTE_TAG, "")
        return replace(
            told,
            command=without_places(command),
            note=note,
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
    if store is None:
        return None
    try:
        return find_study(store, name)
    except UserError:
        return None


def _has_ended(results: Path, name: str) -> bool:
    """Whether the newest run of a study is FINISHED."""
    run = _newest(results, name)
    return run is not None and run.store.client.get_run(run.run_id).info.status == "FINISHED"


def _unfinished(results: Path, name: str) -> bool:
    store = existing_store(results)
    return store is not None and unfinished_study(store, name) is not None


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
    """Run Python on arguments until it ends, and return its exit code.

    A SIGTERM goes on to it; Ctrl-C reaches it as this process. Either way it ends in its own order.
    """
    with subprocess.Popen([sys.executable, *arguments]) as child, _passing_on(child):
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue


@contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Send a SIGTERM of this process on to its child while the block runs."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
