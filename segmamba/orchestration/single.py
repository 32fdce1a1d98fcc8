"""One training run, from the data to its test, in its folder and in MLflow."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from segmamba.config import Config, load_config
from segmamba.data.label_sets import AUTO
from segmamba.data.source import PreparedData, prepare_split
from segmamba.data.splits import Split
from segmamba.environment import command
from segmamba.errors import Stopped, UserError
from segmamba.files import locked, was_moved, write_json
from segmamba.json_files import read_json
from segmamba.orchestration.engine.resume import PLACES
from segmamba.orchestration.engine.scratch import own_temporaries
from segmamba.orchestration.tracking.database import check_results
from segmamba.orchestration.tracking.log import Log, NoLog
from segmamba.redaction import redacted
from segmamba.training.final_metrics import FinalMetrics
from segmamba.training.run_folder import RunFolder, next_run_folder

if TYPE_CHECKING:
    import torch

    from segmamba.orchestration.run_observer import RunObserver
    from segmamba.orchestration.tracking.store import Store

NAME = "SegMamba"
FREE_TO_CHANGE = ("data.workers",)
"""Settings that a resumed run may have otherwise: no result depends on them."""
CLOSING_S = {"FINISHED": 60.0}
"""How long the end of a run waits for MLflow, by its status; 10 s where it did not finish."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the user chose on the command line."""

    config: Config | None
    """None, with `resume`: whatever the run that is resumed has."""
    fresh: Config = field(default_factory=Config)
    """What starts where `config` is None and there is no run to resume."""
    name: str = NAME
    output: Path = Path("Results")
    resume: bool = False
    """Whether to go on with the newest unfinished run; without one, a run is started."""
    device: str = "auto"
    tags: dict[str, str] = field(default_factory=dict)
    """Of the MLflow run, beside the usual ones."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that was trained and tested."""

    folder: RunFolder
    final: FinalMetrics
    mlflow_uri: str
    """Empty where MLflow is not installed."""
    mlflow_page: str
    """Address of the page of MLflow's that lists the runs; empty likewise."""
    sent: bool
    """Whether MLflow has everything."""


def run_single(options: RunOptions, observer: RunObserver) -> FinishedRun:
    """Train a network and test it.

    Whatever the user got wrong is found before the run's folder and its MLflow run exist.

    Args:
        options: What the user chose.
        observer: Sees it happen, and may end it with Stopped.

    Raises:
        UserError: An option, a setting or a case is wrong.
        RunStopped: The run cannot go on; what it has saved stays.
        Stopped: The observer ended it.
    """
    check_results(options.output)
    results = Path(options.output).resolve()
    root, config = _chosen(options, results, observer)
    data = prepare_split(config, results, steps=observer.steps, learners=[config])
    config, split = data.resolved(config), data.split()

    # Only now the slow imports: everything above answers within seconds.
    from segmamba.device import choose_device
    from segmamba.orchestration.tracking.tracked_run import TrackedRun
    from segmamba.training.compiler_cache import CompilerCache
    from segmamba.training.drawing import Pictures
    from segmamba.training.record import record_environment
    from segmamba.training.saving import saver_for

    CompilerCache.below(results).use(threads=os.cpu_count() or 1)
    device, store = choose_device(options.device), _store(results)
    resumed, root = root is not None, root or next_run_folder(results, options.name)
    with locked(root), own_temporaries():
        folder, key = _entered(root, config)
        record = record_environment(
            folder, split, device, len(folder.read_history(config.train.epochs))
        )
        if resumed:
            _check_same_data(folder, record, split)
        observer.on_begin(folder, config, device, split, data.source)
        for note in (*data.notes, *split.notes):
            observer.on_note(note)
        tags = options.tags | _tags(config, data, record, folder, device)
        log = _log(store, folder, key, tags, data.source)
        run = TrackedRun(split, folder, device, log, observer)
        with _told_to(log, folder, observer) as ending:
            log.log_config(config.to_flat_dict())
            run.begin(config)
            with observer.stop_explains_errors():
                for epoch in run.train(config, Pictures(folder), saver_for(device)):
                    observer.on_epoch(epoch)
                final = run.test(config)
        _mark(folder, finished=ending.sent)
        uri, page = (store.uri, store.page) if store else ("", "")
        return FinishedRun(folder, final, uri, page, ending.sent)


@dataclass
class _Ending:
    sent: bool = False
    """Whether the log has everything."""


@contextlib.contextmanager
def _told_to(log: Log, folder: RunFolder, observer: RunObserver) -> Iterator[_Ending]:
    """Whatever happens in the block, tell the log how the run ended, and wait for it."""
    status, reason, ending = "FAILED", "", _Ending()
    try:
        yield ending
        status = "FINISHED"
    except Stopped as stop:
        status, reason = "KILLED", f"stopped by {stop}; --resume goes on with it"
        raise
    except Exception as error:
        reason = redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
        text = redacted(traceback.format_exc()).encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):  # a full disk, or a folder that is gone
            (folder.root / "logs" / "error.txt").write_bytes(text)
        raise
    finally:
        # A refusal of the store has been raised already, and must not hide how the run ended.
        with contextlib.suppress(Exception):
            if reason:
                log.log_reason(reason)
            log.end(status)
        there = folder.root.is_dir()
        ending.sent = log.close(CLOSING_S.get(status, 10.0) if there else 0.0)
        if there and not ending.sent:
            observer.on_note(
                f"MLflow did not take everything ({log.away_because}); the run's folder has it "
                "all, and --resume sends what is missing"
            )


def _chosen(
    options: RunOptions, results: Path, observer: RunObserver
) -> tuple[Path | None, Config]:
    """The folder of the run to go on with, or None; and the Config."""
    root = _unfinished(results, options.name) if options.resume else None
    if root is None:
        if options.resume:
            observer.say(f"resume   no unfinished {options.name} found in {results}: starting one")
        return None, options.config or options.fresh
    config = load_config(root / "config.json")
    asked = options.config or config
    if asked.model.classes == AUTO:  # the data's, which the run has found
        asked = asked.changed({"model.classes": config.model.classes})
    before, now = config.to_flat_dict(), asked.to_flat_dict()
    differing = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in now.items()
        if before[name] != value
        and name not in FREE_TO_CHANGE
        and not (name in PLACES and was_moved(before[name], value))
    ]
    if differing:
        raise UserError(
            f"--resume: {root.name} is not the same run ({'; '.join(differing[:3])}); give its "
            "options or none, or leave --resume out"
        )
    observer.say(f"resume   {root.name}")
    return root, asked


def _unfinished(results: Path, name: str) -> Path | None:
    """The newest folder of a run that was begun and is not finished."""
    called = re.compile(rf"{re.escape(name)}_Run\d+")
    begun = [
        path.parent
        for path in results.glob(f"{name}_Run*/run.json")
        if called.fullmatch(path.parent.name) and not _read_mark(path)["finished"]
    ]
    return max(begun, key=lambda root: int(root.name.rpartition("_Run")[2]), default=None)


def _entered(root: Path, config: Config) -> tuple[RunFolder, str]:
    """The RunFolder, and the key by which MLflow's run is found again."""
    folder, file = RunFolder(root), root / "run.json"
    if file.exists():
        return folder, _read_mark(file)["key"]
    folder.write_config(config)
    key = uuid.uuid4().hex
    write_json(file, {"key": key, "finished": False})  # from here on it can be resumed
    return folder, key


def _mark(folder: RunFolder, *, finished: bool) -> None:
    file = folder.root / "run.json"
    write_json(file, _read_mark(file) | {"finished": finished})


class _Mark(TypedDict):
    """What run.json holds."""

    key: str
    finished: bool


def _read_mark(file: Path) -> _Mark:
    return read_json(
        file, _Mark, fix="remove it; the run's other files stay, but it cannot be gone on with"
    )


def _check_same_data(folder: RunFolder, record: dict[str, Any], data: Split) -> None:
    from segmamba.training.record import data_digest

    for name, ids in record["split"].items():
        if not hasattr(data, name):
            raise UserError(
                f"--resume: {folder.root.name} was begun by a version before 0.2; go on with that "
                "version, or start a new run"
            )
        if ids != [case.id for case in getattr(data, name)]:
            raise UserError(
                f"--resume: the {name} cases are not those that {folder.root.name} began with; "
                "give it the same data, or start a new run"
            )
    if "data_sha256" in record and record["data_sha256"] != data_digest(data):
        raise UserError(
            f"--resume: the images or labels are not those that {folder.root.name} began with; "
            "give it the same data, or start a new run"
        )


def _store(results: Path) -> Store | None:
    """None where MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        return None
    from segmamba.orchestration.tracking.store import open_store

    return open_store(results)


def _log(
    store: Store | None, folder: RunFolder, key: str, tags: dict[str, str], source: str
) -> Log:
    if store is None:
        return NoLog()
    from segmamba.orchestration.tracking.run_log import RunLog, keyed_run

    return RunLog(
        store, lambda: keyed_run(store, key, folder.root.name, tags), source, system_metrics=True
    )


def _tags(
    config: Config,
    data: PreparedData,
    record: dict[str, Any],
    folder: RunFolder,
    device: torch.device,
) -> dict[str, str]:
    from segmamba.training.compiling import decision_of_run

    return {
        "dataset": data.source,
        "labels_convention": " + ".join(sorted({c.convention for c in data.found.labelled})),
        "seed": str(config.seed),
        "git_commit": record["environment"]["git commit"],
        "folder": str(folder.root),
        "execution": decision_of_run(config, device, folder.root)[1],
        "data_sha256": record["data_sha256"],
        "mlflow.source.name": command(),
    }
