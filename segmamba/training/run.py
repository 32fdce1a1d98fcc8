"""One training run: `fit` with its run folder around it."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segmamba.allocator import keep_freed_memory
from segmamba.config import Config
from segmamba.data.splits import Split, with_training_share
from segmamba.disks import disk_line, disk_reason, gone_line, is_gone
from segmamba.errors import RunStopped
from segmamba.evaluation.behind import Aside
from segmamba.files import write_json
from segmamba.training.advice import memory_advice
from segmamba.training.callback import Callback
from segmamba.training.checkpoint import resume_state, save_checkpoint
from segmamba.training.compiling import decision_of_run
from segmamba.training.drawing import NoPictures, PictureDrawer, draw, prepare_to_draw
from segmamba.training.fit import Checkpoint, Epoch, fit
from segmamba.training.initial_weights import initial_weights
from segmamba.training.plots import draw_training_curves
from segmamba.training.run_folder import RunFolder
from segmamba.training.run_pictures import order_picture
from segmamba.training.saving import AtOnce, Saver, settled

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SAVED = "--resume goes on from the last whole checkpoint"


def train_run(
    config: Config,
    data: Split,
    folder: RunFolder,
    device: torch.device,
    callback: Callback | None = None,
    pictures: PictureDrawer | None = None,
    saver: Saver | None = None,
    aside: Aside | None = None,
    wait: Callable[[Callable[[], None]], None] = lambda saved: saved(),
) -> Iterator[Epoch]:
    """Train a run in its folder, from its last good checkpoint on where there is one.

    Args:
        config: The configuration of the run.
        data: A Split of PreparedCases.
        folder: The folder of the run.
        device: Where to train.
        callback: Watches the run.
        pictures: Draws while the run trains.
        saver: When checkpoints are written; None writes them at once.
        aside: Draws the curves when the last epoch has been trained; None draws them at once.
        wait: Is given, when the last epoch has been trained, what waits for the saver and raises as
            this function does. It may be called after the iterator has ended.

    Yields:
        `fit`'s epochs, each after it is saved; with a saver that writes behind the run, once the
        epochs before it are. When the iterator ends or is closed, all are saved, unless `wait`
        puts that off.

    Raises:
        RunStopped: The memory of the device or the disk does not suffice, or, as NonFiniteLoss,
            the loss is not finite. What was saved before stays.
    """
    callback, pictures = callback or Callback(), pictures or NoPictures()
    if config.learning.training_share < 1:
        data = with_training_share(data, config)
        callback.on_note(data.notes[-1])
    aside = aside or Aside(torch.device("cpu"))
    prepare_to_draw(device)
    if device.type == "cpu":
        keep_freed_memory()

    def explained(settle: Callable[[], None]) -> None:
        with _explained_faults(config, folder, device):
            settle()

    with (
        _explained_faults(config, folder, device),
        settled(saver or AtOnce(), lambda settle: wait(partial(explained, settle))) as saving,
    ):
        folder.write_config(config)
        resume_from = _last_checkpoint(config, folder, device, callback)
        done = resume_from["epoch"] if resume_from else 0
        history = folder.read_history(done)
        with _tensorboard(folder.logs, purge_step=done + 1) as events:
            start = None if resume_from else initial_weights(config, data, folder, device, callback)
            compiled, _ = decision_of_run(config, device, folder.root)
            for epoch in fit(
                config.changed({"train.compile": "always" if compiled else "never"}),
                data,
                device,
                resume_from=resume_from,
                start=start,
                callback=callback,
            ):
                history.append({"epoch": epoch.number} | epoch.metrics)
                write_json(folder.history, history)
                for name, value in epoch.metrics.items():
                    events.add_scalar(name, value, epoch.number)
                write = partial(_save, folder=folder, config=config, is_best=epoch.is_best)
                saving.save(epoch.checkpoint, write)
                order_picture(epoch, data.validation, config, folder, device, pictures)
                _show_pictures(events, pictures.finished(), epoch.number)
                yield epoch
            _show_pictures(events, pictures.close(), len(history))
        if history:
            curves = folder.plots / "training_curves.png"
            draws = partial(draw, device, draw_training_curves, history, curves)
            aside.do(partial(explained, draws))


def _last_checkpoint(
    config: Config, folder: RunFolder, device: torch.device, callback: Callback
) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None.

    A run that was killed between writing last.pth and its copies gets the copies now.
    """
    state, damaged = resume_state([folder.last, folder.previous], device)
    consequence = "from the epoch before" if state else "from the start, since there is no other"
    for line in damaged:
        callback.on_note(f"{line}; going on {consequence}")
    if state:
        _save_copies(state, folder, config, is_best=state["best_epoch"] == state["epoch"])
    return state


def _save(checkpoint: Checkpoint, folder: RunFolder, config: Config, *, is_best: bool) -> None:
    """Save an epoch: last.pth first, from which a run killed in between makes its copies."""
    save_checkpoint(checkpoint, folder.last, previous=folder.previous)
    _save_copies(checkpoint, folder, config, is_best=is_best)


def _save_copies(
    checkpoint: Checkpoint, folder: RunFolder, config: Config, *, is_best: bool
) -> None:
    """Save the weights alone where the epoch is the best so far, or one that is kept."""
    keep = config.train.keep_every_epochs
    if is_best:
        save_checkpoint(checkpoint["model"], folder.best)
    if keep and checkpoint["epoch"] % keep == 0:
        save_checkpoint(checkpoint["model"], folder.periodic(checkpoint["epoch"]))


@contextlib.contextmanager
def _explained_faults(config: Config, folder: RunFolder, device: torch.device) -> Iterator[None]:
    """Turn the machine's lack of memory, disk or folder into a RunStopped with the fix."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunStopped(memory_advice(config, device)) from error
    except OSError as error:
        if is_gone(error, folder.root):
            raise RunStopped(gone_line(folder.root)) from error
        if not disk_reason(error):
            raise
        raise RunStopped(disk_line(error, SAVED, folder.root)) from error


def _show_pictures(events: "SummaryWriter", paths: Sequence[Path], epoch: int) -> None:
    """Show PNG files in TensorBoard as they are."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    for path in paths:
        image = Summary.Image(encoded_image_string=path.read_bytes(), colorspace=4)
        summary = Summary(value=[Summary.Value(tag="val/predictions", image=image)])
        # torch declares `file_writer` as None, which it is before the writer is open.
        events.file_writer.add_summary(summary, epoch)  # type: ignore[attr-defined]  # see above


def _tensorboard(folder: Path, *, purge_step: int) -> "SummaryWriter":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=purge_step)
