"""Ask an advisory service whether what is installed beside this has known vulnerabilities.

``python .ci/audit.py`` exits with 1 if there is one, or if `--required` is given and the service
could not be asked about everything. Without it, that is said, and no failure: a change does not
become wrong because a service is away.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

OWN = "roger-trio"


def judge(report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Read what pip-audit has found.

    Args:
        report: Its report, of ``--format json``.

    Returns:
        Vulnerabilities, in words, and the packages nothing was learned about.
    """
    found: list[str] = []
    unknown: list[str] = []
    for each in report["dependencies"]:
        if "skip_reason" in each:
            unknown += [each["name"]] if each["name"] != OWN else []
        for one in each.get("vulns", ()):
            names = ", ".join([one["id"], *one["aliases"]])
            fixed = ", ".join(one["fix_versions"]) or "no release yet"
            found.append(f"{each['name']} {each['version']}: {names}; fixed in: {fixed}")
    return found, unknown


def ask(*options: str) -> dict[str, Any] | None:
    """Have pip-audit ask; None: it could not."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    try:
        done = subprocess.run(
            [*command, "--timeout=10", *options],
            capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        report: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        print("audit: no answer in 300 s", file=sys.stderr)
        return None
    except ValueError:
        print(*done.stderr.decode(errors="replace").splitlines()[-1:], file=sys.stderr)
        return None
    return report


def main(arguments: list[str]) -> int:
    """Ask, print what is known, and return the exit status."""
    options = [each for each in arguments if each != "--required"]
    report = ask(*options)
    found, unknown = ([], ["anything"]) if report is None else judge(report)
    for each in found:
        print(f"audit: VULNERABLE: {each}")
    if unknown:
        what = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        print(f"audit: NOT AUDITED: the advisory service told nothing about {what}")
    if not found and not unknown:
        print("audit: no known vulnerabilities")
    return 1 if found or (unknown and "--required" in arguments) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
