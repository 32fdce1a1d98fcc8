"""One training run, from the data to the verdict, in its folder and in MLflow."""

import contextlib
import importlib.util
import json
import re
import shlex
import sys
import traceback
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from segmamba.config import Config, load_config
from segmamba.data.cases import notes_on
from segmamba.data.preprocess import check_patch_fits, prepare_cases
from segmamba.data.source import labelled_cases, unlabelled_cases
from segmamba.data.splits import split_cases
from segmamba.errors import Stopped, UserError
from segmamba.files import check_writable, locked, write_json
from segmamba.training.final_metrics import FinalMetrics, read_final_metrics
from segmamba.training.run_folder import RunFolder, next_run_folder

NAME = "SegMamba"
FREE_TO_CHANGE = (
    "data.workers",
)  # settings that a resumed run may have otherwise: no result depends on them


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the user chose on the command line."""

    config: Config | None
    """None, with `resume`: whatever the run that is resumed has."""
    name: str = NAME
    output: Path = Path("Results")
    resume: bool = False
    """Go on with the newest unfinished run, or start one where there is none."""
    device: str = "auto"
    tags: dict = field(default_factory=dict)
    """For the MLflow run, beside the usual ones."""


@dataclass(frozen=True)
class FinishedRun:
    folder: RunFolder
    final: FinalMetrics
    """As in final_metrics.json."""
    mlflow_uri: str
    """Empty without MLflow."""
    sent: bool
    """Whether MLflow has everything."""


def run_single(options, callback):
    """Train and test; a FinishedRun. `callback` (a RunProgress) sees it happen and may end it with Stopped.

    Whatever the user got wrong is found before the run's folder and its MLflow run exist.
    """
    check_writable(options.output)
    results = Path(options.output).resolve()
    root, config = _found(options, results, callback)
    cases, source, notes = labelled_cases(config, results, callback.steps)
    unlabelled = unlabelled_cases(config, [config])
    prepared = prepare_cases(
        [*cases, *unlabelled],
        results / "cache",
        config.data,
        progress=callback.steps("preparing cases"),
    )
    check_patch_fits(prepared, config.data)
    data = split_cases(prepared[: len(cases)], config.data, prepared[len(cases) :])
    notes = [] if unlabelled else notes

    # Only now the slow imports: everything above answers within seconds.
    from segmamba.device import choose_device
    from segmamba.training.record import record_environment

    device = choose_device(options.device)
    uri, experiment = _store(results)
    root = root or next_run_folder(results, options.name)
    with locked(root):
        folder, key = _entered(root, config)
        told = record_environment(
            folder, data, device, len(folder.read_history(config.train.epochs))
        )
        _check_same_data(folder, told, data)
        callback.begin(
            folder, config, device, data, source, [*notes, *notes_on(cases), *data.notes]
        )
        log = _log(
            uri,
            experiment,
            folder,
            key,
            _tags(options, config, cases, source, told, folder, device),
            source,
        )
        return _logged(config, data, folder, device, log, callback, uri)


def _logged(config, data, folder, device, log, callback, uri):
    """Run, and whatever happens, tell MLflow how it ended."""
    status, reason, patience = "FAILED", "", 10.0
    try:
        log.log_config(config.to_flat_dict())
        log.log_data(data)
        log.log_files([folder.config, folder.environment], None)
        with callback.stop_explains_errors():
            final = _train_and_test(config, data, folder, device, log, callback)
        status, patience = "FINISHED", 60.0
    except Stopped as stop:
        status, reason = "KILLED", f"stopped by {stop}; --resume goes on with it"
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        (folder.logs / "error.txt").write_text(traceback.format_exc())
        raise
    finally:
        with contextlib.suppress(
            Exception
        ):  # a refusal of the store has already been raised, and is not to hide how the run ended
            if reason:
                log.log_reason(reason)
            log.end(status)
        sent = log.close(patience)
        if not sent:
            callback.on_note(
                f"MLflow did not take everything ({log.away_because}); the run's folder has it all, and --resume sends what is missing"
            )
    _mark(folder, finished=sent)
    return FinishedRun(folder, final, uri, sent)


def _train_and_test(config, data, folder, device, log, callback):
    """The run's FinalMetrics, once all is trained, tested and handed to the log."""
    from segmamba.training.drawing import Pictures
    from segmamba.training.run import train_run
    from segmamba.training.run_evaluation import evaluate_run

    begun, shown = False, set()
    for epoch in train_run(config, data, folder, device, callback, Pictures(folder)):
        if begun:
            log.log_epoch(epoch.metrics, epoch.number)
        else:  # with what was saved before, should the process have died before MLflow had it
            log.log_history(folder.read_history(epoch.number))
            begun = True
        pictures = set(folder.plots.glob("*.png"))
        log.log_files(sorted(pictures - shown), "plots")
        shown = pictures
        callback.epoch(epoch)
    if not begun:
        log.log_history(folder.read_history(config.train.epochs))
    final = read_final_metrics(folder.final_metrics) or evaluate_run(
        config, data, folder, device, callback
    )
    log.log_metrics(final.metrics, final.epochs)
    log.log_tags(
        {f"weights_sha256_{which}": digest for which, digest in final.weights_sha256.items()}
    )
    log.log_test_cases(final.cases)
    log.log_files(sorted(folder.plots.glob("*.png")), "plots")
    log.log_files([folder.final_metrics], None)
    return final


def _found(options, results, callback):
    """(folder of the run to go on with, or None; the Config)."""
    if not options.resume:
        return None, options.config
    root = _unfinished(results, options.name)
    if root is None:
        callback.say(f"resume   no unfinished {options.name} found in {results}: starting one")
        return None, options.config or Config()
    config = load_config(root / "config.json")
    asked = options.config or config
    before, now = config.to_flat_dict(), asked.to_flat_dict()
    differing = [
        name for name, value in now.items() if before[name] != value and name not in FREE_TO_CHANGE
    ]
    if differing:
        told = "; ".join(
            f"{name} was {before[name]!r} and is {now[name]!r}" for name in differing[:3]
        )
        raise UserError(
            f"--resume: {root.name} is not the same run ({told}); give its options or none, or leave --resume out"
        )
    callback.say(f"resume   {root.name}")
    return root, asked


def _unfinished(results, name):
    """The newest folder of a run that was begun and is not finished, or None."""
    begun = [
        path
        for path in results.glob(f"{name}_Run*/run.json")
        if re.fullmatch(rf"{re.escape(name)}_Run\d+", path.parent.name)
    ]
    waiting = [path.parent for path in begun if not json.loads(path.read_text())["finished"]]
    return max(waiting, key=lambda root: int(root.name.rpartition("_Run")[2]), default=None)


def _entered(root, config):
    """(RunFolder, key): the key is how MLflow's run is found again."""
    folder = RunFolder(root)
    file = root / "run.json"
    if file.exists():
        return folder, json.loads(file.read_text())["key"]
    folder.write_config(config)
    key = uuid.uuid4().hex
    write_json(file, {"key": key, "finished": False})  # from here on it can be resumed
    return folder, key


def _mark(folder, *, finished):
    file = folder.root / "run.json"
    write_json(file, json.loads(file.read_text()) | {"finished": finished})


def _check_same_data(folder, told, data):
    now = {name: [case.id for case in getattr(data, name)] for name in told["split"]}
    if told["split"] != now:
        name = next(name for name in now if told["split"][name] != now[name])
        raise UserError(
            f"--resume: the {name} cases are not those that {folder.root.name} began with; give it the same data, or start a new run"
        )


def _store(results):
    """(uri, id of the experiment); ("", "") where MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        return "", ""
    from segmamba.orchestration.tracking.store import open_store, store_uri

    uri = store_uri(results)
    return uri, open_store(uri, results)


def _log(uri, experiment, folder, key, tags, source):
    if not uri:
        return NoLog()
    from segmamba.orchestration.tracking.run_log import RunLog, keyed_run

    return RunLog(
        uri,
        lambda client: keyed_run(client, experiment, key, folder.root.name, tags),
        source,
        system_metrics=True,
    )


def _tags(options, config, cases, source, told, folder, device):
    from segmamba.training.step import compile_decision

    return options.tags | {
        "dataset": source,
        "labels_convention": " + ".join(sorted({c.convention for c in cases})),
        "seed": str(config.seed),
        "git_commit": told["environment"]["git commit"],
        "folder": str(folder.root),
        "execution": compile_decision(config, device)[1],
        "data_sha256": told["data_sha256"],
        "mlflow.source.name": shlex.join([Path(sys.executable).name, *sys.argv]),
    }


class NoLog:
    """Takes what a RunLog takes, where MLflow is not installed; the run's folder has it all."""

    away_because = ""

    def _ignore(self, *told):
        """Callback reads it."""

    log_config = log_data = log_history = log_epoch = log_metrics = log_test_cases = log_files = (
        log_tags
    ) = log_reason = end = _ignore

    def close(self, seconds=0.0):
        return True
