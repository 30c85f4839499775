"""The report on vulnerabilities informs, and never fails the check."""

from __future__ import annotations

import os
import subprocess

import pytest

from bench import audit
from tests.conftest import ROOT


def test_vulnerabilities_are_counted_and_named() -> None:
    fault = {"id": "GHSA-1", "fix_versions": ["2.0"]}
    found = [
        {"name": "a", "version": "1.0", "vulns": [fault, fault | {"id": "GHSA-2", "fix_versions": []}]},
        {"name": "b", "version": "1.0", "vulns": []},
        {"name": "c", "skip_reason": "unknown there"},
    ]
    assert audit.describe(found) == [
        "2 known vulnerabilities in 2 packages, 1 could not be looked up",
        "  a 1.0: GHSA-1, fixed in 2.0",
        "  a 1.0: GHSA-2, fixed in no version yet",
    ]


def test_a_service_that_knows_nothing_is_not_taken_for_good_news() -> None:
    assert audit.describe([{"name": "c", "skip_reason": "unknown there"}])[0].startswith("nothing is known")


@pytest.mark.parametrize(
    "command", [("pip_audit", "--no-such-option"), ("no_such_module",), ("pip_audit", "--format", "json", "--help")]
)
def test_an_audit_that_cannot_be_made_says_so_in_a_line(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_COMMAND", command)
    told = audit.report()
    assert told.startswith("nothing is known: the vulnerability service could not be asked (")
    assert "\n" not in told


def test_a_service_that_does_not_answer_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "TIMEOUT_S", 0)
    assert "did not answer" in audit.report()


def test_the_check_goes_on_whatever_the_audit_says() -> None:
    # A make that runs these tests passes its level and flags on, and a make below another one says more lines.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    shown = subprocess.run(
        ["make", "-n", "check"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "bench.audit" in shown.splitlines()[-1]
    assert "-@$(BIN)/python -m bench.audit" in (ROOT / "Makefile").read_text()
