"""The page on texts: its commands and its Python run as they stand, on tiny models."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import tiny_bert

from spade_xai.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "texts.md"


def test_texts_page(berts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind, file in (("sst2", "dev.tsv"), ("ag_news", "test.csv")):
        shutil.copytree(berts(kind), f"bert-{kind.replace('_', '-')}")
        tiny_bert.write_set(Path(file), kind, 2)
    Path("reviews.txt").write_text("a good film\n")
    text = PAGE.read_text()
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(x)[1:] for x in lines.splitlines() if x.startswith("spade-xai ")]
    assert [command[0] for command in commands] == ["explain", "explain", "evaluate", "reproduce"]
    for command in commands:
        command[command.index("-n") + 1] = "4"
        with pytest.raises(SystemExit) as exit:
            main(command)
        assert not exit.value.code, capsys.readouterr().err
    assert Path("explanations/report.html").exists() and Path("scores/scores.json").exists()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(program.replace("augmentations=64", "augmentations=4, progress=False"), names)
    assert names["relevance"].shape == names["tokens"].ids.shape
    assert names["flips"].item() in (0, 1)
