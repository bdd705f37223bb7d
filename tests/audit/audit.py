"""Whether a package that CI installs has a known vulnerability: python audit.py PIP_AUDIT REQUIREMENTS...

pip-audit asks PyPI, and OSV about what PyPI did not answer for. A vulnerability fails (exit code 1), and so does an
audit that cannot run (2). Packages for which no service could be reached are named and do not fail, because CI must
pass without the services.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

SERVICES = ("pypi", "osv")
SECONDS = 50  # for all
UNREACHABLE = re.compile(
    r"connect|timed out|timeout|max retries|failed to resolve|HTTP|SSL|proxy", re.IGNORECASE
)


class AuditError(Exception):
    """The audit itself cannot run."""


@dataclass
class Answers:
    """What the services said.

    Attributes:
        known: Each package of the lists.
        looked_up: Those that a service answered for.
        vulnerable: Package and version: ids of its vulnerabilities, each with the versions that mend it.
        silent: Services that could not be reached, and why.
    """

    known: set[str] = field(default_factory=set)
    looked_up: set[str] = field(default_factory=set)
    vulnerable: dict[str, list[str]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def ask(self, program: Sequence[str], path: str, service: str, seconds: float) -> None:
        """Add what one service says of a list."""
        command = [*program, "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        command += ["--format", "json", "--timeout", "10", "--vulnerability-service", service]
        command += ["--requirement", path]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            self.silent[service] = f"no answer within {seconds:.0f} seconds"
            return
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError, TypeError):
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            if not UNREACHABLE.search(said[-1]):
                raise AuditError(said[-1]) from None
            self.silent[service] = said[-1][:200]
            return
        for package in packages:
            name = package["name"]
            self.known.add(name)
            if "skip_reason" in package:
                continue
            self.looked_up.add(name)
            for found in package["vulns"]:
                mended = ", ".join(found["fix_versions"]) or "no version yet"
                text = f"{found['id']} (mended in {mended})"
                texts = self.vulnerable.setdefault(f"{name} {package['version']}", [])
                if text not in texts:
                    texts.append(text)


def main(program: Sequence[str], lists: Sequence[str]) -> int:
    """Ask, report, and return the exit code."""
    answers, end = Answers(), time.monotonic() + SECONDS
    for service in SERVICES:
        for path in lists:
            try:
                answers.ask(program, path, service, max(1.0, end - time.monotonic()))
            except (AuditError, OSError) as error:
                print(f"audit: cannot run: {error}")
                return 2
        if answers.known and answers.known == answers.looked_up:
            break
    for package, found in sorted(answers.vulnerable.items()):
        print(f"audit: VULNERABLE: {package}: {'; '.join(found)}")
    for service, why in answers.silent.items():
        print(f"audit: {service} did not answer: {why}")
    missed = sorted(answers.known - answers.looked_up)
    if missed or not answers.known:
        which = f"{len(missed)} packages ({', '.join(missed)})" if missed else "any package"
        print(f"audit: COULD NOT BE AUDITED: no service answered for {which}")
    print(
        f"audit: {len(answers.looked_up)} packages looked up, {len(answers.vulnerable)} with a known vulnerability"
    )
    return 1 if answers.vulnerable else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:2], sys.argv[2:]))
