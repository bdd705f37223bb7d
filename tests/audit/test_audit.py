"""The audit of packages fails on a known vulnerability, and says loudly what it could not look up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).with_name("audit.py")
# In the place of pip-audit, whose JSON it writes: what each service answers is a file's content.
FAKE = """#!{python}
import json, sys, time
answer = json.load(open({path!r})).get(sys.argv[sys.argv.index("--vulnerability-service") + 1])
if isinstance(answer, str):
    sys.stderr.write("Traceback\\n" + answer)
    sys.exit(1)
print(json.dumps({{"dependencies": answer, "fixes": []}}))
sys.exit(1 if any(p.get("vulns") for p in answer) else 0)
"""
FINE = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {
    "name": "pillow",
    "version": "9.0",
    "vulns": [{"id": "PYSEC-2022-8", "fix_versions": ["9.1"]}],
}
UNKNOWN = {"name": "pillow", "skip_reason": "Dependency not found on PyPI and could not be audited"}
GOOD = {"name": "pillow", "version": "9.0", "vulns": []}
CASES = {
    "all are fine": ({"pypi": [FINE, GOOD]}, 0, ["2 packages looked up, 0 with"]),
    "one is vulnerable": ({"pypi": [FINE, BAD]}, 1, ["VULNERABLE: pillow 9.0: PYSEC-2022-8 (mended in 9.1)"]),
    "the second service knows": (
        {"pypi": [FINE, UNKNOWN], "osv": [FINE, BAD]}, 1, ["VULNERABLE: pillow", "2 packages looked up"],
    ),
    "both say so": ({"pypi": [UNKNOWN, BAD | {"name": "x"}], "osv": [BAD, BAD | {"name": "x"}]}, 1, ["2 with"]),
    "one is known to none": (
        {"pypi": [FINE, UNKNOWN], "osv": "ConnectionError: no route"}, 0,
        ["COULD NOT BE AUDITED: no service answered for 1 packages (pillow)", "osv did not answer: ConnectionError"],
    ),
    "a vulnerability and no second service": (
        {"pypi": [UNKNOWN, BAD | {"name": "x"}], "osv": "ConnectionError: no route"}, 1,
        ["COULD NOT BE AUDITED", "VULNERABLE: x 9.0"],
    ),
    "none answers": (
        {"pypi": "ConnectionError: no route", "osv": "ConnectionError: no route"}, 0,
        ["COULD NOT BE AUDITED: no service answered for any package", "0 packages looked up"],
    ),
    "it cannot run": ({"pypi": "torch==2.13 does not contain a hash", "osv": [GOOD]}, 2, ["cannot run: torch"]),
}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="the fake is a script with a first line")
@pytest.mark.parametrize("name", CASES)
def test_the_audit(tmp_path, name):
    answers, code, texts = CASES[name]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    program = tmp_path / "pip-audit"
    program.write_text(FAKE.format(python=sys.executable, path=str(tmp_path / "answers.json")))
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, AUDIT, program, "requirements.txt"], capture_output=True, text=True, cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert all(text in done.stdout for text in texts), done.stdout
    assert not done.stderr
