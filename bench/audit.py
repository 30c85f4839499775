"""Owns the report on known vulnerabilities of the installed packages: `python -m bench.audit`.

It informs and never fails: a new advisory is news, not a fault of the change that is being checked. Where the
vulnerability service cannot be asked, it says so in a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TIMEOUT_S = 120
_COMMAND = ("pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable", "--timeout", "10")
_SHOWN_CHARS = 160


def main() -> None:
    """Print the report."""
    print(f"audit: {report()}")


def report() -> str:
    """What is known of the installed packages, as text."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *_COMMAND], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"nothing is known: the vulnerability service did not answer within {TIMEOUT_S} s"
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() or ["no answer"]
        return f"nothing is known: the vulnerability service could not be asked ({lines[-1][:_SHOWN_CHARS]})"
    return "\n".join(describe(found))


def describe(dependencies: list[dict[str, Any]]) -> list[str]:
    """A line of counts, and one per vulnerability."""
    asked = [item for item in dependencies if "skip_reason" not in item]
    if not asked:
        return [f"nothing is known: the vulnerability service knows none of {len(dependencies)} packages from here"]
    faults = [(item, fault) for item in asked for fault in item["vulns"]]
    left_out = f", {len(dependencies) - len(asked)} could not be looked up" if len(asked) < len(dependencies) else ""
    lines = [f"{len(faults)} known vulnerabilities in {len(asked)} packages{left_out}"]
    for item, fault in faults:
        fixed = ", ".join(fault["fix_versions"]) or "no version yet"
        lines.append(f"  {item['name']} {item['version']}: {fault['id']}, fixed in {fixed}")
    return lines


if __name__ == "__main__":
    main()
