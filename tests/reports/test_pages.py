"""Addresses and texts of the pages: links to runs, stores without passwords, Markdown's signs."""

import dataclasses

import pytest

from segmamba.reports.pages import run_address, server_of, shown_store, template
from segmamba.reports.report import write_report
from tests.studies.synthetic import synthetic_study


@pytest.mark.parametrize(
    ("uri", "server"),
    [
        ("sqlite:///Results/mlflow.db", "http://127.0.0.1:5000"),
        ("file:///mlruns", "http://127.0.0.1:5000"),
        ("https://mlflow.example.org/", "https://mlflow.example.org"),
        ("http://me:secret@host:8080/base", "http://host:8080/base"),
    ],
)
def test_runs_are_linked_where_mlflow_shows_them(uri, server):
    assert server_of(uri) == server
    assert run_address("abc", uri, "") == f"{server}/#/runs/abc"


def test_a_run_is_linked_among_the_pages_of_model_training():
    """MLflow 3 opens /#/runs/ID as an evaluation of generative AI."""
    page = "http://host/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=x"
    address = run_address("abc", "http://host", page)
    assert address == "http://host/#/experiments/7/runs/abc?workflowType=machine_learning"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:se:cret@host/db", "'postgresql://me:***@host/db'"),
        ("http://me:secret@host:8080", "'http://me:***@host:8080'"),
        ("sqlite:////home/me@work/a:b/mlflow.db", "sqlite:////home/me@work/a:b/mlflow.db"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("sqlite:////my results/mlflow.db", "'sqlite:////my results/mlflow.db'"),
    ],
)
def test_a_store_is_shown_as_a_command_takes_it_without_its_password(uri, shown):
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
