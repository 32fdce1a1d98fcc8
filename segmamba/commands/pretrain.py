"""segmamba pretrain: weights to start from, learnt from images alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmamba.commands.shared import (
    RESULTS,
    DeviceOption,
    JsonOption,
    NamesOption,
    OrientationOption,
    OutputOption,
    PresetOption,
    ResumeOption,
    SetOption,
    console,
    print_json,
    progress_bar,
    with_orientation,
)
from segmamba.config import Config, load_config, parse_assignments
from segmamba.config import preset as preset_named
from segmamba.errors import UserError
from segmamba.screen import Steps, clock, print_line

if TYPE_CHECKING:
    from rich.console import Console

    from segmamba.training.run_folder import RunFolder

NAME = "SegMamba_Pretrain"


def pretrain(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of cases in any known layout, with or without segmentations. Default: "
            "embedded phantom data.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    orientation: OrientationOption = None,
    names: NamesOption = None,
    preset: PresetOption = "demo",
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Short for --set learning.pretrain_epochs=N. Default: the preset's train.epochs.",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    changes: SetOption = None,
    output: OutputOption = RESULTS,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Pretrain a network by filling in hidden cubes.

    A run starts from the weights with --set learning.initial_weights=FILE. The pretraining learns
    from the images of unlabelled cases, and of the cases that a run with the same settings would
    train on. It learns from no patient of that run's validation, test or holdout set.
    """
    from segmamba.data.source import source_changes

    config = preset_named(preset).changed(
        source_changes(data, "auto", names or ())
        | parse_assignments(with_orientation(changes, orientation))
    )
    wanted = epochs or config.learning.pretrain_epochs or config.train.epochs
    config = config.changed({"learning.pretrain_epochs": wanted})

    from segmamba.data.content import summarised
    from segmamba.data.preprocess import check_patch_fits
    from segmamba.data.source import images_to_learn_from
    from segmamba.device import choose_device
    from segmamba.files import check_writable
    from segmamba.orchestration.engine.scratch import own_temporaries
    from segmamba.training.compiler_cache import CompilerCache
    from segmamba.training.pretrain_run import pretrain_run, read_pretraining

    check_writable(output)
    CompilerCache.below(output).use(threads=os.cpu_count() or 1)
    torch_device = choose_device(device)
    screen = console(stderr=True)
    with _progress_bars() as steps:
        prepared, notes = images_to_learn_from(config, output, steps=steps)
    check_patch_fits(prepared, config.data)
    folder = _open_folder(output, config, screen, resume=resume)
    for note in (*notes, *summarised([case.findings for case in prepared])):
        print_line(screen, f"note     {note}")
    print_line(
        screen,
        f"cases    {len(prepared)}; {wanted} epochs of {config.train.steps_per_epoch} steps "
        f"on {torch_device}",
    )
    with own_temporaries():
        for epoch in pretrain_run(config, prepared, folder, torch_device):
            left_s = (wanted - epoch.number) * epoch.metrics["time/pretrain_s"]
            print_line(
                screen,
                f"epoch {epoch.number:4d}   loss {epoch.metrics['pretrain/loss']:.4f}   "
                f"{clock(left_s)} left",
            )
    if as_json:
        print_json(
            {
                "weights": str(folder.pretrained),
                "cases": len(prepared),
                "epochs": read_pretraining(folder),
            }
        )
    else:
        print(folder.pretrained)


@contextlib.contextmanager
def _progress_bars() -> Iterator[Steps]:
    """Show a progress bar for each piece of work."""
    with contextlib.ExitStack() as stack:
        yield lambda label: stack.enter_context(progress_bar(label))


def _open_folder(output: Path, config: Config, screen: Console, *, resume: bool) -> RunFolder:
    """Choose the folder to write to, and write config.json there.

    With `resume` it is the newest folder that lacks its weights, where there is one.
    """
    from segmamba.training.run_folder import RunFolder, next_run_folder

    unfinished = _newest_unfinished(output) if resume else None
    if unfinished:
        folder = RunFolder(unfinished)
        if folder.config.exists() and load_config(folder.config) != config:
            raise UserError(
                f"--resume: {folder.root} was begun with other settings (its config.json); "
                "give the same, or leave --resume out"
            )
        print_line(screen, f"resume   {folder.root}")
    else:
        if resume:
            print_line(screen, "resume   no unfinished pretraining found: starting one")
        folder = RunFolder(next_run_folder(output, NAME))
    folder.write_config(config)
    return folder


def _newest_unfinished(output: Path) -> Path | None:
    """Find the newest pretraining below `output` that has not written its weights."""
    unfinished = [
        path
        for path in sorted(output.glob(f"{NAME}_Run*"))
        if not (path / "checkpoints" / "pretrained.pth").exists()
    ]
    return unfinished[-1] if unfinished else None
