"""How a report's pages are filled in: templates, and values as text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmamba.redaction import redacted, without_user
from segmamba.reports.page_tables import STEPS_PX, fit_tables

if TYPE_CHECKING:
    from jinja2 import Template

VIEWER = "viewer.html"
"""The page of a study's cases, beside its report."""


MLFLOW_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` serves without further options."""


def plain(value: Any) -> str:
    """A setting's value as a reader would write it.

    Args:
        value: The value, of whatever type the setting has.

    Returns:
        The text: four significant digits of a number, a sequence without its brackets.
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).strip("()[]")
    )


def template(name: str, *, autoescape: bool) -> Template:
    """Load a page that is to be filled in.

    Args:
        name: File name of the template.
        autoescape: Whether values are escaped for HTML.

    Returns:
        The template; rendering it without a name that it needs is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader,
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _markdown_cell
    environment.globals["fold_steps"] = STEPS_PX[1:]
    return environment.get_template(name)


def html_page(name: str, content: Mapping[str, Any]) -> str:
    """Fill in a page whose tables fold where they do not fit.

    Args:
        name: File name of the template.
        content: What it shows.

    Returns:
        The page.
    """
    return fit_tables(template(name, autoescape=True).render(content))


def _markdown_cell(value: Any) -> str:
    """Text that shows as itself in Markdown, and breaks neither a table nor the page around it."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word it is no emphasis


def shown_store(uri: str) -> str:
    """Write the address of a store as a command takes it, without the password in it.

    Args:
        uri: The address.
    """
    return shlex.quote(redacted(uri))


def server_of(uri: str) -> str:
    """The address of the server that shows the runs of a store, without name and password.

    Args:
        uri: The store's address. Of a database or a folder, `mlflow ui` shows the runs on this
            machine.
    """
    served = uri.startswith(("http://", "https://"))
    return without_user(uri).rstrip("/") if served else MLFLOW_UI


def run_address(run_id: str, uri: str, page: str) -> str:
    """The address of a run's page in MLflow.

    Args:
        run_id: The run.
        uri: The store's address.
        page: The address of the page that lists the store's runs; empty where it is not known.

    Returns:
        It, among MLflow's pages of model training; without `page` MLflow 3 opens the run among
        those of generative AI.
    """
    listed, known, _ = page.partition("?")
    return (
        f"{listed}/{run_id}?workflowType=machine_learning"
        if known
        else f"{server_of(uri)}/#/runs/{run_id}"
    )
