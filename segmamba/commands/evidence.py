"""experiments/evidence.py: a page of evidence from studies of one data set.

Imports nothing slow: `--help` answers at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmamba.commands.shared import (
    PRESET_HELP,
    CpusOption,
    LabelsOption,
    NamesOption,
    OrientationOption,
    SetOption,
    console,
    new_app,
    run_app,
    with_orientation,
)
from segmamba.config import parse_assignments
from segmamba.config import preset as preset_named
from segmamba.errors import UserError
from segmamba.screen import print_line

if TYPE_CHECKING:
    from segmamba.studies.evidence import EvidencePart

STOPPED = "stopped  the same command goes on"


def evidence_command(parts: Sequence["EvidencePart"], scripts: Path) -> None:
    """Run the parts of a page of evidence, write the page, and exit.

    The exit code is 0 where all parts ended well, 1 where one failed or was left out, 2 for the
    user's mistake and 130 where the user stopped it.

    Args:
        parts: The parts, in the page's order.
        scripts: The folder that holds a script for each study.
    """
    app = new_app()

    @app.command()
    def run(
        data: Annotated[
            Path | None,
            typer.Option(
                help="The folder of labelled cases, or what else a study takes.",
                metavar="PATH",
                show_default=False,
            ),
        ] = None,
        labels: LabelsOption = "auto",
        orientation: OrientationOption = None,
        names: NamesOption = None,
        preset: Annotated[str, typer.Option(help=PRESET_HELP, metavar="NAME")] = "quick",
        seeds: Annotated[
            str,
            typer.Option(
                help="Training runs of each arm; auto adds seeds until a claim is decided.",
                metavar="auto|N",
            ),
        ] = "auto",
        folds: Annotated[
            int, typer.Option(help="Folds of the cross-validation over patients.", metavar="N")
        ] = 5,
        changes: SetOption = None,
        only: Annotated[
            list[str] | None,
            typer.Option(
                help=f"Only this part; may be repeated. Default: all of "
                f"{', '.join(part.name for part in parts)}.",
                metavar="PART",
                show_default=False,
            ),
        ] = None,
        phantoms: Annotated[
            bool,
            typer.Option(
                "--phantoms", help="Also run each study on phantoms, and compare the effects."
            ),
        ] = False,
        full: Annotated[
            bool, typer.Option("--full", help="Run all arms of each study, not the first few.")
        ] = False,
        gpus_per_trial: Annotated[
            str,
            typer.Option(
                help="GPUs of one training. Default: each study's own choice.",
                metavar="N",
                show_default=False,
            ),
        ] = "",
        cpus: CpusOption = 0,
        output: Annotated[
            Path, typer.Option(help="Folder of the studies' results.", metavar="DIR")
        ] = Path("Results/evidence"),
        page: Annotated[
            Path | None,
            typer.Option(
                help="The page to write. Default: evidence.md in the folder of results.",
                metavar="FILE",
                show_default=False,
            ),
        ] = None,
    ) -> None:
        """Run the studies of a page of evidence one after another, and write the page.

        Studies that have ended are not run again. Without --data nothing runs: the page is written
        from what there is.
        """
        chosen = _chosen(parts, only or ())
        settings = with_orientation(changes, orientation)
        preset_named(preset).changed(parse_assignments(settings))  # before anything runs

        from segmamba.orchestration.evidence import (
            STOPPED_CODE,
            EvidenceOptions,
            EvidenceRunner,
            read_parts,
        )
        from segmamba.reports.evidence import write_evidence

        screen, codes = console(), []
        if data is not None:
            options = EvidenceOptions(
                data=data,
                labels=labels,
                names=tuple(names or ()),
                preset=preset,
                seeds=seeds,
                folds=folds,
                changes=tuple(settings),
                gpus_per_trial=gpus_per_trial,
                cpus=cpus,
                full=full,
                output=output.resolve(),
            )
            runner = EvidenceRunner(options, scripts, lambda line: print_line(screen, line))
            for part, on_phantoms in _order(chosen, phantoms=phantoms):
                codes.append(runner.run(part, phantoms=on_phantoms))
                if codes[-1] == STOPPED_CODE:
                    print_line(screen, STOPPED)
                    raise typer.Exit(STOPPED_CODE)
        written = write_evidence(page or output / "evidence.md", read_parts(parts, output))
        print_line(screen, f"page     {written}")
        raise typer.Exit(1 if any(codes) else 0)

    run_app(app)


def _chosen(parts: Sequence["EvidencePart"], only: Sequence[str]) -> list["EvidencePart"]:
    """The parts that `only` names, or all.

    Raises:
        UserError: A name is no part's.
    """
    known = [part.name for part in parts]
    for name in only:
        if name not in known:
            raise UserError(f"--only {name!r}: no such part; choose of {', '.join(known)}")
    return [part for part in parts if not only or part.name in only]


def _order(parts: Sequence["EvidencePart"], *, phantoms: bool) -> list[tuple["EvidencePart", bool]]:
    """Each part on the data, then those that ask the same of phantoms on these as well."""
    twins = [(part, True) for part in parts if phantoms and part.has_twin]
    return [*((part, False) for part in parts), *twins]
