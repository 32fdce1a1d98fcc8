"""A study's question and its answer.

A file that declares a study needs what is offered here. It imports neither torch nor Ray or MLflow.
"""

from segmamba.studies.hypothesis import Hypothesis, PairwiseContrast, Trend
from segmamba.studies.search_space import Between, OneOf, Times
from segmamba.studies.spec import Budget, StudySpec

__all__ = [
    "Between",
    "Budget",
    "Hypothesis",
    "OneOf",
    "PairwiseContrast",
    "StudySpec",
    "Times",
    "Trend",
]
