"""Secrets come from the environment and stay there: not in runs, artifacts, model cards, messages or logs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l2p import cli
from l2p.config import Layout, Params, load_params
from l2p.errors import RegistryError
from l2p.redact import redact, redact_values
from l2p.registry.store import Store
from l2p.registry.tracking import TrainingRun
from l2p.stages import register

PASSWORD, KEY, ODD_KEY, TRACKING = "hunter2-secret", "sk-0123456789abcdef", "another-key-0987", "tracker-password-55"
SECRETS = (PASSWORD, KEY, ODD_KEY, TRACKING)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in the environment, one of them in a variable that only params.yaml names."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MY_ENDPOINT", ODD_KEY)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", TRACKING)


def files_with(folder: Path, secret: str) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


def written(root: Path) -> Iterator[tuple[str, str]]:
    """(secret, file) of every secret in what a registration writes."""
    for secret in SECRETS:
        for path in files_with(root / "mlruns", secret):
            yield secret, path
        for name in ("mlflow.db", str(Layout.registration), str(Layout.summary), "models/checkpoints/mlflow.json"):
            if (root / name).is_file() and secret.encode() in (root / name).read_bytes():
                yield secret, name


def test_a_registration_writes_no_secret(
    secrets: None, project: Path, change_params: Callable[..., Params], capfd: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "remote", "add", "origin", f"https://me:{PASSWORD}@example.org/x.git"], check=True)
    llm = load_params().model_dump(mode="json", by_alias=True)["prompts"]["llm"]
    url = f"http://me:{PASSWORD}@example.org/v1?api_key={KEY}"
    params = change_params("prompts", llm=llm | {"base_url": url, "api_key_env": "MY_ENDPOINT"})
    # places into which a secret may stray: a lock, a report, a note in the pipeline
    Path("dvc.lock").write_text(f"params: {{base_url: '{url}'}}\n", encoding="utf-8")
    Path("dvc.yaml").write_text(f"stages: {{}} # https://me:{PASSWORD}@example.org {ODD_KEY}\n", encoding="utf-8")
    Layout.report.write_text(f"<html>{ODD_KEY} {TRACKING}</html>", encoding="utf-8")
    with TrainingRun.open(
        tracking_uri="sqlite:///mlflow.db",
        experiment="l2p",
        run_file=Layout.checkpoints / "mlflow.json",
        name="train",
    ) as run:
        run.log_params({"prompts": {"llm": {"base_url": url}}})
    register.run(params)
    assert list(written(project)) == []
    told = capfd.readouterr()
    assert not [secret for secret in SECRETS if secret in told.out + told.err]
    # and the search finds what there is: a secret that is logged past all of this
    run_id = Store("sqlite:///mlflow.db", "l2p").create_run("x", {})
    Store("sqlite:///mlflow.db", "l2p").client.log_text(run_id, KEY, "note.txt")
    assert [secret for secret, _ in written(project)] == [KEY]


def test_a_registration_without_its_secrets_still_verifies(
    secrets: None, project: Path, change_params: Callable[..., Params]
) -> None:
    llm = load_params().model_dump(mode="json", by_alias=True)["prompts"]["llm"]
    params = change_params("prompts", llm=llm | {"base_url": f"http://me:{PASSWORD}@example.org/v1"})
    register.run(params)
    found = {link.name: link for link in register.verify(params, "shapes-pixel@candidate")}
    assert {link.state for link in found.values()} == {"holds"}
    assert "5 of 6 copies" in found["run's files"].told
    assert "a secret taken out" in found["run's files"].told


def test_a_tracking_address_with_a_password_is_never_told(
    project: Path,
    change_params: Callable[..., Params],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    change_params("register", tracking_uri=f"http://me:{PASSWORD}@127.0.0.1:9")
    for command in (["verify", "x@champion"], ["lineage", "x@champion"], ["promote", "x/1"], ["register"], ["doctor"]):
        with pytest.raises(SystemExit):
            cli.main(command)
        told = capfd.readouterr()
        assert PASSWORD not in told.out + told.err
        if command != ["doctor"]:
            assert "http://***@127.0.0.1:9" in told.err or "127.0.0.1" in told.err
        else:
            assert "holds a credential" in " ".join(told.out.split())


def test_a_store_that_is_away_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError) as caught:
        Store(f"http://me:{PASSWORD}@127.0.0.1:9", "l2p")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:pass@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://l2p:p%40ss@db/l2p", "postgresql://***@db/l2p"),
        ("s3://bucket/folder and https://token@host", "s3://bucket/folder and https://***@host"),
        ("https://host/a?x=1&sig=abcdef&y=2", "https://host/a?x=1&sig=***&y=2"),
        ("https://host/a?api_key=abcdef", "https://host/a?api_key=***"),
        ("an address@example.org and models:/name@champion", "an address@example.org and models:/name@champion"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_credentials_are_taken_out_of_addresses(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact_values({"a": [text], "b": 1}) == {"a": [clean], "b": 1}


def test_secrets_of_the_environment_are_taken_out_of_any_text(secrets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_TOKEN", "on")  # too short to be told from a word
    assert redact(f"key {KEY}, {TRACKING}, based on it") == "key ***, ***, based on it"
    assert redact(ODD_KEY) == ODD_KEY
    assert redact(ODD_KEY, also=["MY_ENDPOINT"]) == "***"
