"""No output replaces an input, another output or somebody else's file; a run knows its pictures by their pixels."""

import pytest
import torch
from PIL import Image
from published_folders import make_folder, make_ham

from spade_xai.cli import main
from spade_xai.lottery.data.open import open_data
from spade_xai.lottery.data.pictures import Drawn, Files
from spade_xai.lottery.folder import Run
from spade_xai.lottery.storage import RunError, write_json, write_state


@pytest.fixture
def refused(capsys):
    """Run a command that must fail, and return its message."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["lottery", *(str(a) for a in arguments)])
        assert ended.value.code == 1
        return capsys.readouterr().err

    return call


def test_reports_do_not_replace_the_run_or_each_other(own_run, refused):
    path = own_run.path
    before = (path / "run.json").read_bytes()
    assert "run.json would be written over, which the command reads" in refused(
        "report", path, "-o", path / "run.html"
    )
    assert "x.json would be written twice" in refused("report", path, "-o", path / "x.json")
    assert (path / "run.json").read_bytes() == before
    assert not list(path.glob("run*.csv")) and not list(path.glob("x*"))


@pytest.mark.parametrize("name", ["r.html", "r.md", "r.json", "r-drift.csv"])
def test_reports_do_not_replace_what_is_not_theirs(own_run, refused, tmp_path, name):
    (tmp_path / name).write_text("mine")
    assert "was not written by spade-xai" in refused(
        "report", own_run.path, "-o", tmp_path / "r.html"
    )
    assert [p.name for p in tmp_path.iterdir() if p.name != "run"] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_report_may_be_written_again(own_run, tmp_path):
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["lottery", "report", str(own_run.path), "-o", str(tmp_path / "r.html")])
        assert not ended.value.code


def test_stages_do_not_replace_what_is_not_theirs(own_run, refused):
    (own_run.path / "difficulty.json").write_text("mine")
    assert "difficulty.json is there and is not what a run keeps" in refused(
        "difficulty", own_run.path
    )
    assert (own_run.path / "difficulty.json").read_text() == "mine"
    with pytest.raises(RunError, match="is not what a run keeps as its maps"):
        write_json(own_run.path / "run.json", "maps", {})
    with pytest.raises(RunError, match="is not what a run keeps as its maps"):
        bank = own_run.arm("magnitude", 0).file("bank", 0, "safetensors")
        write_state(bank, "maps", {"x": torch.zeros(1)})


def test_a_run_is_not_put_into_its_pictures(tmp_path, refused):
    pictures = make_folder(tmp_path / "pictures")
    for out in (pictures, pictures / "run"):
        assert "must be outside of the data set's folder" in refused(
            "find", "folder", pictures, "-o", out, "-m", "shapes"
        )


def test_pictures_are_known_by_their_pixels(own_run, monkeypatch):
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    other = images.clone()
    other[1, 2, 3, 3] = 1
    labels = torch.zeros(2)
    regions = torch.zeros(2, 4, 4, dtype=torch.bool)
    found = {Drawn(*parts).digest() for parts in
             ((images, labels), (other, labels), (images, labels, regions), (images, labels, ~regions))}  # fmt: skip
    assert len(found) == 4
    real = Drawn.content
    monkeypatch.setattr(Drawn, "content", lambda self: (part + b"x" for part in real(self)))
    with pytest.raises(RunError, match=r"pictures of .* have changed"):
        _ = Run.open(own_run.path).data


def test_files_are_known_by_their_bytes(tmp_path):
    spec = {"kind": "folder", "folder": str(make_folder(tmp_path / "pictures"))}
    before = open_data(spec).digest()
    assert open_data(spec).digest() == before
    file = sorted((tmp_path / "pictures").rglob("*.png"))[0]
    image = Image.open(file).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(file)
    assert open_data(spec).digest() != before


def test_masks_of_objects_count(tmp_path):
    spec = {"kind": "ham10000", "folder": str(make_ham(tmp_path))}
    data = open_data(spec)
    assert isinstance(data.test, Files) and data.test.regions is not None
    before = data.digest()
    mask = next(r for r in data.test.regions if r is not None)
    image = Image.open(mask).convert("L")
    image.putpixel((0, 0), 255 - image.getpixel((0, 0)))
    image.save(mask)
    assert open_data(spec).digest() != before
