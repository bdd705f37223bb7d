"""Pages and help texts: links lead somewhere, commands parse, and the study's Python runs."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from spade_xai import trace
from spade_xai.cli import ENTRIES, loaded

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {name: loaded(name) for name in ENTRIES}
GROUPS = {name: COMMANDS[name].commands for name in ("lottery", "study")}
HELP = {name: command for name, command in COMMANDS.items() if name not in GROUPS}
for group, commands in GROUPS.items():
    HELP |= {f"{group} {name}": command for name, command in commands.items()}


def lines_of(text):
    """Command lines of spade-xai in the text, without comments."""
    joined = text.replace("\\\n", " ")
    return [
        shlex.split(line, comments=True)[1:]
        for line in re.findall(r"^ *spade-xai .*", joined, re.M)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", prose):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/guide.md",
        "docs/lottery.md",
        "docs/imagenet-study.md",
        "docs/human-study.md",
        "docs/reproduce.md",
        "docs/texts.md",
        *HELP,
    ],
)
def test_command_lines_parse(name):
    text = inspect.cleandoc(HELP[name].help) if name in HELP else (ROOT / name).read_text()
    found = lines_of(text)
    assert found
    for command, *arguments in found:
        if command in GROUPS:
            group, (command, *arguments) = GROUPS[command], arguments
            group[command].make_context(command, arguments)
        else:
            COMMANDS[command].make_context(command, arguments)


def test_python_of_the_trojan_study(monkeypatch):
    (program,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/trojan-study.md").read_text(), re.DOTALL
    )
    names = {}
    exec(
        program.replace("augmentations=256", "augmentations=4, layers='fc', progress=False"), names
    )
    assert names["trace"] is trace
    assert names["saliency"].shape == (1, 3, 64, 64) and names["saliency"].abs().sum() > 0
