"""Passwords and tokens, hidden in addresses and wherever else they stand."""

import json
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from segmamba import environment
from segmamba.commands.shared import new_app, run_app, shown_uri
from segmamba.environment import command, git_commit, git_diff
from segmamba.errors import UserError
from segmamba.orchestration.engine.callbacks import FinishRuns
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.tracking.outbox import reason_of
from segmamba.orchestration.tracking.store import Store, StudyHalted, open_store, prose
from segmamba.orchestration.tracking.study_run import STUDY_FILE
from segmamba.redaction import redacted, without_user
from segmamba.screen import print_line
from tests.orchestration.mlflow_study import begin
from tests.studies.synthetic import synthetic_study

SECRET = "hunter2/xy@z"


@pytest.fixture(autouse=True)
def no_store(monkeypatch):
    for name in ("URI", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.mark.parametrize(
    ("text", "shown", "bare"),
    [
        ("postgresql://me:se:cret@host/db", "postgresql://me:***@host/db", "postgresql://host/db"),
        ("http://me:1234@host:8080", "http://me:***@host:8080", "http://host:8080"),
        ("http://token@host", "http://***@host", "http://host"),
        ("https://token:@host/x", "https://***@host/x", "https://host/x"),
        ("pg://host/db?user=me&pass=secret1", "pg://host/db?user=me&pass=***", None),
        ("mysql+pymysql://me:a/b@host/db", "mysql+pymysql://me:***@host/db", None),
        ("postgresql://me:a@b@host/db", "postgresql://me:***@host/db", "postgresql://host/db"),
        ("http://me:a?b#c@host/x", "http://me:***@host/x", "http://host/x"),
        ("https://host/a?password=x&b=1", "https://host/a?password=***&b=1", None),
        ("pg://h/db?sslmode=on&Access_Token=abc", "pg://h/db?sslmode=on&Access_Token=***", None),
        ("sqlite:////home/me@work/a:b/m.db", "sqlite:////home/me@work/a:b/m.db", None),
        ("http://host:8080/a@b", "http://host:8080/a@b", "http://host:8080/a@b"),
        ("http://[::1]:5000/a@b", "http://[::1]:5000/a@b", "http://[::1]:5000/a@b"),
        ("no address: me@work, Results/mlflow.db", "no address: me@work, Results/mlflow.db", None),
        (
            "2 stores: http://a:b@c, http://d:e@f.",
            "2 stores: http://a:***@c, http://d:***@f.",
            None,
        ),
    ],
)
def test_an_address_is_shown_without_its_password(text, shown, bare):
    assert redacted(text) == shown == redacted(shown)
    if bare:
        assert without_user(text) == bare


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", SECRET),
        ("MLFLOW_TRACKING_TOKEN", SECRET),
        ("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@host"),
        ("MLFLOW_TRACKING_URI", "http://me:hunter2%2Fxy%40z@host"),
    ],
)
def test_what_mlflow_takes_is_hidden_in_any_text(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    said = f"HTTPConnectionPool: login with {SECRET} refused"
    assert redacted(said) == "HTTPConnectionPool: login with *** refused"
    for text in (str(UserError(said)), reason_of(Exception(said)), prose(said)):
        assert SECRET not in text and "refused" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see http://me:pa ss'w\"ord@host/x now", "see http://me:***@host/x now"),
        ("mysql+pymysql://me:it's hunter2@db:3306/x?a=b", "mysql+pymysql://me:***@db:3306/x?a=b"),
        ("ray://me:hunter2 x@head:10001", "ray://me:***@head:10001"),
        ("page http://127.0.0.1:5000 and models:/x@champion", ""),
        ("http://[::1]:80, ask a@b.c", ""),
        ("http://host: refused; ask a@b.c", ""),
        ("sqlite:////a b/c.db and file:///x y@z", ""),
    ],
)
def test_a_password_may_hold_blanks_and_quotes_and_no_other_text_is_eaten(text, shown):
    assert redacted(text) == (shown or text)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", f"http://me:{SECRET}@proxy:3128"),
        ("https_proxy", f"http://me:{SECRET}@proxy:3128"),
        ("RAY_AUTH_TOKEN", SECRET),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("MLFLOW_TRACKING_URI", f"postgresql://host/db?user=me&password={SECRET}"),
    ],
)
def test_secrets_of_proxies_and_stores_are_hidden_in_any_text(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert redacted(f"login with {SECRET} refused") == "login with *** refused"


def test_what_ray_stores_of_a_studys_callback_names_no_store():
    finish = FinishRuns(SimpleNamespace(run=f"http://me:{SECRET}@host"), SilentProgress())
    assert b"hunter2" not in pickle.dumps(finish)


def test_a_traceback_is_shown_without_passwords(capsys, monkeypatch):
    app = new_app()

    @app.command()
    def fail():
        raise RuntimeError(f"http://me:{SECRET}@host")

    with pytest.raises(SystemExit) as ended:
        run_app(app, [])
    shown = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" in shown and "http://me:***@host" in shown
    assert "hunter2" not in shown


def test_a_short_password_of_the_environment_does_not_eat_words(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Dice")
    assert redacted("Dice 91.2") == "Dice 91.2"


def test_a_store_that_is_away_or_none_is_named_without_its_password(monkeypatch, tmp_path):
    uri = f"http://me:{SECRET}@127.0.0.1:9"
    said = []
    monkeypatch.setenv("SEGMAMBA_PATIENCE_S", "0.2")
    with pytest.raises(StudyHalted) as halted:
        Store(uri, "1").retry(lambda: (_ for _ in ()).throw(OSError(uri)), said.append)
    assert said and not [text for text in (*said, str(halted.value)) if "hunter2" in text]
    assert all("127.0.0.1:9" in text for text in (*said, str(halted.value)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nonsense://me:{SECRET}@host")
    with pytest.raises(UserError) as refused:
        open_store(tmp_path)
    assert "hunter2" not in str(refused.value) and "nonsense://me:***@host" in str(refused.value)
    assert shown_uri(uri) == "'http://me:***@127.0.0.1:9'"


def test_the_record_of_a_study_holds_no_password(tmp_path, monkeypatch):
    study = synthetic_study(seeds=1, cases=3, epochs=1)
    store = open_store(tmp_path)
    uri = f"postgresql://me:{SECRET}@host/db"
    monkeypatch.setattr("sys.argv", ["study.py", "--set", f"x={uri}"])
    assert "hunter2" not in command() and "study.py --set" in command()
    run = begin(store, replace(study, mlflow_uri=uri, command=command()), tmp_path / "s_Run01")
    client = store.client
    file = client.download_artifacts(run.run_id, STUDY_FILE)
    with open(file) as opened:
        record = opened.read()
    assert "hunter2" not in record and json.loads(record)["mlflow_uri"].endswith("me:***@host/db")
    assert "hunter2" not in json.dumps(client.get_run(run.run_id).to_dictionary())


def test_the_code_of_another_project_around_an_installed_package_is_not_taken_for_ours(
    tmp_path, monkeypatch
):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "lib" / "segmamba" / "x.py"))
    for function in (git_commit, git_diff):
        function.cache_clear()
    assert git_commit() == "unknown" and git_diff() == ""
    for function in (git_commit, git_diff):
        function.cache_clear()


def test_changes_of_the_code_are_kept_without_passwords_and_can_be_left_out(monkeypatch):
    monkeypatch.setattr(environment, "_git", lambda *words: f"+URI = 'http://me:{SECRET}@h'\n")
    git_diff.cache_clear()
    assert git_diff() == "+URI = 'http://me:***@h'\n"
    git_diff.cache_clear()
    monkeypatch.setenv("SEGMAMBA_GIT_DIFF", "0")
    assert git_diff() == ""
    git_diff.cache_clear()


def test_no_line_and_no_traceback_on_the_terminal_has_a_password(capsys):
    uri = f"http://me:{SECRET}@host"
    print_line(Console(), f"page     cannot be written ({uri})")
    app = new_app()

    @app.command()
    def fail():
        raise RuntimeError(f"API request to {uri} failed")

    with pytest.raises(SystemExit, match="1"):
        run_app(app, [])
    printed = capsys.readouterr()
    assert "(http://me:***@host)" in printed.out
    assert "RuntimeError: API request to http://me:***@host failed" in printed.err
    assert "Traceback" in printed.err and "hunter2" not in printed.out + printed.err
