"""SegMamba: Mamba U-Nets for brain tumour segmentation, and studies that measure each part's worth.

The names of `__all__` import their modules on first use, so that `import segmamba` is instant:

    predictor = segmamba.load_predictor("Results/SegMamba_Run01")
    cases = segmamba.find_cases("BraTS2021")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmamba.config import load_config
    from segmamba.data.cases import find_cases
    from segmamba.inference.predictor import load_predictor
    from segmamba.models import build_model
    from segmamba.studies import Hypothesis, StudySpec

    __version__: str
    """The installed version."""

__all__ = [
    "Hypothesis",
    "StudySpec",
    "__version__",
    "build_model",
    "find_cases",
    "load_config",
    "load_predictor",
]

_MODULES = {
    "Hypothesis": "segmamba.studies",
    "StudySpec": "segmamba.studies",
    "build_model": "segmamba.models",
    "find_cases": "segmamba.data.cases",
    "load_config": "segmamba.config",
    "load_predictor": "segmamba.inference.predictor",
}

if not TYPE_CHECKING:  # type checkers read the imports above, and report names that do not exist

    def __getattr__(name: str) -> object:
        """Import a public name on its first use (PEP 562)."""
        if name == "__version__":
            from importlib.metadata import version

            value = version("segmamba")
        elif name in _MODULES:
            value = getattr(importlib.import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names too, which are not there before their first use."""
    return sorted({*globals(), *__all__})
