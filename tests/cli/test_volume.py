"""How much commands say, how soon help comes, and what stands for options that are not given."""

import json
import os
import subprocess
import sys
import warnings

import pytest
from command_line import FAST, notices

import spade_ext
import spade_xai
from spade_xai.attribution.methods import GRADIENT_METHODS, QUICK_METHODS
from spade_xai.cli import ENTRIES, loaded, main
from spade_xai.commands import volume
from spade_xai.commands.options import Quality
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.volume import LogLines, plain


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_no_torch(tmp_path, argument):
    program = f"""
import sys
from spade_xai.cli import main
try:
    main(["{argument}"])
except SystemExit:
    print("torch" in sys.modules, "jinja2" in sys.modules, "matplotlib" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "False False False"


@pytest.mark.parametrize(
    ("typed", "found"), [("spade-xai ex", "explain"), ("spade-xai explain --lab", "--label")]
)
def test_the_shell_completes_commands_and_options(tmp_path, typed, found):
    program = "import sys; sys.argv = ['spade-xai']; from spade_xai.cli import main; main()"
    told = {
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
        "_SPADE_XAI_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **told},
    )  # fmt: skip
    assert done.stdout.strip() == found and done.stderr == ""


def test_versions_agree():
    assert spade_xai.__version__ == spade_ext.__version__


@pytest.mark.parametrize("name", ENTRIES)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    own = loaded(name).help.split("\n\n")[0].replace("\n", " ")
    listed = ENTRIES[name].help.rstrip(".")
    shared = [word for word in listed.lower().split() if word.strip(",.") in own.lower()]
    assert len(shared) >= 0.6 * len(listed.split()), (listed, own)


def test_quiet_prints_json_and_nothing_else(run, pictures):
    arguments = ["trace", "pictures/a.png", *FAST, "-s", "0.5"]
    assert run(*arguments, "-q") == (0, "", "")
    code, out, err = run(*arguments, "-q", "--json")
    assert code == 0 and err == "" and json.loads(out)[0]["image"] == "a.png"
    code, out, err = run("trace", "absent.png", *FAST, "-q")
    assert (code, out) == (1, "") and err == "spade-xai: no file or folder absent.png\n"
    assert run(*arguments, "-q", "-v")[0] == 2


def test_lines_say_what_goes_on_where_there_is_no_terminal(run, pictures):
    arguments = ["explain", "pictures/a.png", *FAST, "-s", "0.5", "-a", "saliency"]
    code, _, err = run(*arguments)
    assert code == 0
    for words in (" s  starting", " s  loading command_line:make", " s  image 1 of 1: a.png"):
        assert words in err
    code, _, err = run(*arguments, "-o", "other", "-v")
    for words in (" s  maps: 1 of 1", " s  augmentations: ", " s  pruning: "):
        assert words in err
    code, _, err = run(*arguments, "-o", "silent", "--no-progress")
    assert notices(err) == err


def test_verbose_shows_the_traceback_of_an_error(pictures):
    with pytest.raises(ValueError, match=r"absent\.png"):
        main(["trace", "absent.png", *FAST, "-v"])


def test_log_lines_are_some_seconds_apart(capsys, monkeypatch):
    monkeypatch.setattr(volume, "loudness", volume.Loudness())
    lines = LogLines(every=1e9)
    for k in range(10):
        lines("forward", k, 10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(volume, "loudness", volume.Loudness())
    lines = LogLines(every=0.0)
    lines("forward", 3, 10)
    assert "augmentations: 3 of 10" in capsys.readouterr().err


def test_messages_do_not_name_functions_inside():
    assert plain("find_images: no file") == "no file"
    assert plain("Trace.at: a thing") == "a thing"
    for text in ("--out: a file", "skipped: a.png", "mask a.png must", "nn.Linear is"):
        assert plain(text) == text


def test_warnings_of_commands_are_lines(run, pictures, capsys):
    def show(*_):
        warnings.warn("trace: it is so", stacklevel=1)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("always")
        patch.setattr("spade_xai.commands.explain.end", show)
        patch.setattr(
            warnings,
            "showwarning",
            lambda *a, **k: sys.stderr.write(warnings.formatwarning(*a, **k)),
        )
        _, _, err = run("explain", "pictures/a.png", *FAST, "-s", "0.5", "-a", "saliency")
    assert "spade-xai: warning: it is so\n" in err


def test_quality_stands_for_what_is_not_given():
    quick, paper = PruningOptions(), PruningOptions(quality=Quality.PAPER)
    assert quick.augmentations == 256 and paper.augmentations == 1024
    assert quick.sparsity(None) == "faithful" and paper.sparsity(None) == "linear:0.99"
    assert quick.methods(None) == list(QUICK_METHODS)
    assert paper.methods(None) == list(GRADIENT_METHODS)
    given = PruningOptions(quality=Quality.PAPER, augmentations=8)
    assert given.augmentations == 8 and given.sparsity("0.5") == "0.5"
    assert given.methods(["lrp"]) == ["lrp"]
    assert given.told() == PruningOptions(augmentations=8).told()
    assert "quality" not in given.arguments()


def test_what_is_passed_over_and_what_is_large_is_said(run, pictures):
    (pictures / "notes.txt").write_text("no image")
    (pictures / "inside").mkdir()
    code, out, _ = run("explain", "pictures", *FAST, "-s", "0.5", "-a", "saliency")
    assert code == 0
    assert "passed over in their folders: 1 other files, 1 folders" in out
    assert "the network is given 16 x 16 pixels" in out
