"""Addresses and texts of the pages: links to runs, stores without passwords, Markdown's signs."""

import dataclasses

import pytest

from segmamba.reports.pages import runs_page, shown_store, template
from segmamba.reports.report import write_report
from tests.studies.synthetic import synthetic_study


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("sqlite:///Results/mlflow.db", "http://127.0.0.1:5000/#/runs/"),
        ("file:///mlruns", "http://127.0.0.1:5000/#/runs/"),
        ("https://mlflow.example.org/", "https://mlflow.example.org/#/runs/"),
        ("http://me:secret@host:8080/base", "http://host:8080/base/#/runs/"),
    ],
)
def test_runs_are_linked_where_mlflow_shows_them(uri, page):
    assert runs_page(uri) == page


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:se:cret@host/db", "postgresql://me:***@host/db"),
        ("http://me:secret@host:8080", "http://me:***@host:8080"),
        ("sqlite:////home/me@work/a:b/mlflow.db", "sqlite:////home/me@work/a:b/mlflow.db"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
    ],
)
def test_a_stores_password_is_not_shown(uri, shown):
    assert shown_store(uri) == shown


def test_a_report_holds_no_password_of_its_store(tmp_path):
    study = synthetic_study(seeds=1, cases=3, epochs=1)
    study = dataclasses.replace(study, mlflow_uri="postgresql://me:secret@host/db")
    write_report(study, tmp_path)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "secret" not in text and "postgresql://me:***@host/db" in text


def test_the_style_sheet_folds_at_every_step_and_on_paper():
    page = template("report.css", autoescape=False).render()
    for name in ("fold-540", "fold-930", "fold-always", "fold-print"):
        assert f"table.{name} thead {{ display: none; }}" in page
