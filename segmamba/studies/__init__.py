"""What a study asks: its hypothesis, its arms or its search space."""

from segmamba.studies.hypothesis import Hypothesis, Pair, Trend
from segmamba.studies.search_space import Between, OneOf, Times
from segmamba.studies.spec import Budget, StudySpec

__all__ = ["Between", "Budget", "Hypothesis", "OneOf", "Pair", "StudySpec", "Times", "Trend"]
