"""segmamba pretrain: weights to start from, learnt from images alone."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.shared import AsJson, Changes, PresetName, console, print_json, progress_bar
from segmamba.config import parse_assignments
from segmamba.config import preset as preset_named
from segmamba.screen import print_line

NAME = "SegMamba_Pretrain"


def pretrain(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of cases in any known layout, labelled or not. Without it: embedded phantom data.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    preset: PresetName = "demo",
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Short for --set learning.pretrain_epochs=N. Default: the preset's train.epochs.",
            show_default=False,
        ),
    ] = None,
    changes: Changes = None,
    output: Annotated[Path, typer.Option(help="Folder for the run's folder and the cache.")] = Path(
        "Results"
    ),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the newest unfinished pretraining in --output; start one where there is "
            "none.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    as_json: AsJson = False,
):
    """Pretrain a network by filling in hidden cubes; a run starts from it with --set learning.initial_weights=FILE.

    Learns from the images of unlabelled cases and of those that a run with the same settings would train on; never from a patient whom it
    would choose by or be tested on.
    """
    config = preset_named(preset).changed(
        {"data.source": str(data.resolve()) if data else ""} | parse_assignments(changes or [])
    )
    wanted = epochs or config.learning.pretrain_epochs or config.train.epochs
    config = config.changed({"learning.pretrain_epochs": wanted})

    from segmamba.data.preprocess import check_patch_fits, prepare_cases
    from segmamba.data.source import images_to_learn_from
    from segmamba.device import choose_device
    from segmamba.files import check_writable
    from segmamba.training.pretrain_run import pretrain_run, read_pretraining

    check_writable(output)
    chosen = choose_device(device)
    told = console(stderr=True)
    with _bars() as steps:
        cases, notes = images_to_learn_from(config, output, steps)
        prepared = prepare_cases(
            cases, output / "cache", config.data, progress=steps("preparing cases")
        )
    check_patch_fits(prepared, config.data)
    folder = _folder(output, config, resume, told)
    for note in notes:
        print_line(told, f"note     {note}")
    print_line(
        told,
        f"cases    {len(prepared)}; {wanted} epochs of {config.train.steps_per_epoch} steps on {chosen}",
    )
    for epoch in pretrain_run(config, prepared, folder, chosen):
        left = (wanted - epoch.number) * epoch.metrics["time/pretrain_s"]
        print_line(
            told,
            f"epoch {epoch.number:4d}   loss {epoch.metrics['pretrain/loss']:.4f}   {left / 60:.0f} min left",
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
def _bars():
    """Gives steps(label): a function of (done, in all) that shows progress."""
    with contextlib.ExitStack() as stack:
        yield lambda label: stack.enter_context(progress_bar(label))


def _folder(output, config, resume, told):
    """The RunFolder to write to, its config.json written; with `resume` the newest one that lacks its result."""
    from segmamba.config import load_config
    from segmamba.errors import UserError
    from segmamba.training.run_folder import RunFolder, next_run_folder

    unfinished = (
        [
            p
            for p in sorted(output.glob(f"{NAME}_Run*"))
            if not (p / "checkpoints" / "pretrained.pth").exists()
        ]
        if resume
        else []
    )
    if unfinished:
        folder = RunFolder(unfinished[-1])
        if folder.config.exists() and load_config(folder.config) != config:
            raise UserError(
                f"--resume: {folder.root} was begun with other settings (its config.json); give the same, or leave --resume out"
            )
        print_line(told, f"resume   {folder.root}")
    else:
        if resume:
            print_line(told, "resume   no unfinished pretraining found: starting one")
        folder = RunFolder(next_run_folder(output, NAME))
    folder.write_config(config)
    return folder
