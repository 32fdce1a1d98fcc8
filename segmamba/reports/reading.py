"""How to read a report, in five sentences, and how sure the order of its arms is."""

from segmamba.studies.alpha_spending import FIRST_LOOK
from segmamba.studies.results import Study
from segmamba.studies.standing import Outperforming, outperforms, ranks
from segmamba.studies.words import DASH

STUDY = (
    "The first paragraph answers the question that was asked before the study ran; everything else "
    "is exploratory.",
    "An interval holds for other seeds and other test patients: where it excludes 0, the arms "
    "differ.",
    '"Supported" means that the interval lies above 0 and that the estimate reaches the smallest '
    "difference that matters, not that the whole interval does.",
    '"Undecided" is no finding of equality: the runs and patients at hand cannot tell.',
    "Bold marks every arm that is not shown to be worse than the best one, since the largest mean "
    "alone may be luck.",
)
"""Of a study's report."""
POOLED = (
    "The first paragraph answers what was asked of several studies together; where it says "
    '"exploratory", the question was chosen after they had ended, so a study of its own has to '
    "confirm it.",
    *STUDY[1:],
)
"""Of the report on a comparison of studies."""
ENSEMBLE = (
    "The first paragraph says whether a vote of networks beats one of them on average.",
    "Its interval holds for other test patients and these networks: other networks would make "
    "another ensemble.",
    "The best member was chosen on the validation set, so its lead over the others is partly luck.",
    "The difference of diverse and plain members has an interval over runs and patients; that of "
    "their two votes holds for these two ensembles alone and supports no claim about the methods.",
    "All other rows describe what was found and are exploratory.",
)
"""Of an ensemble's report."""
INFERENCE = (
    "Each row changes what is done after training, on the same networks and the same patients.",
    "A difference is the row's score minus the baseline's, and its interval tells which "
    "differences are possible.",
    "With one network the interval holds for other patients and this network; with several it "
    "holds for other training runs as well.",
    "Nothing is adjusted for the number of rows, so one of twenty true zeros excludes 0 by chance.",
    "What is chosen here needs a test on other patients before it is claimed.",
)
"""Of an inference ablation's report."""


def reading_of(study: Study) -> tuple[str, ...]:
    """The five sentences of a study's report.

    Args:
        study: The study.

    Returns:
        STUDY; POOLED of several studies; with the looks in it where the study adds seeds.
    """
    if study.pooled_from:
        return POOLED
    if not study.max_seeds:
        return STUDY
    looks = (
        f"The study looked at its results after {FIRST_LOOK} seeds and after each further one, up "
        f"to {study.max_seeds}, and stopped when they had answered or would hardly do so: its "
        "repeated intervals allow for that, for other seeds and for other test patients, and where "
        "one excludes 0 the arms differ."
    )
    return (STUDY[0], looks, *STUDY[2:])


def standing_rows(study: Study) -> list[dict[str, str]]:
    """How stable each arm's rank is on the score that decides.

    Args:
        study: The study.

    Returns:
        A row for each arm: its name, the share of bootstrap samples in which it is first, the range
        of its rank, and how often one of its runs is better than one of the baseline's. [] where
        the arms share too little.
    """
    column = f"{study.hypothesis.score}_{study.hypothesis.regions[0]}"
    return [
        {
            "arm": rank.arm,
            "first": f"{100 * rank.first:.0f} %",
            "range": str(rank.low) if rank.low == rank.high else f"{rank.low} to {rank.high}",
            "beats": DASH
            if rank.arm == study.baseline
            else _share(outperforms(study, rank.arm, study.baseline, column)),
        }
        for rank in ranks(study, column)
    ]


def _share(found: Outperforming | None) -> str:
    return f"{100 * found.share:.0f} % of {found.pairs}" if found else DASH
