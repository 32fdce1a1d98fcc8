"""What a study asks: its hypothesis, its arms or its search space."""

from segmamba.orchestration.question.hypothesis import Hypothesis, Pair, Trend
from segmamba.orchestration.question.space import Between, OneOf
from segmamba.orchestration.question.spec import Budget, StudySpec
from segmamba.orchestration.question.times import Times

__all__ = ["Between", "Budget", "Hypothesis", "OneOf", "Pair", "StudySpec", "Times", "Trend"]
