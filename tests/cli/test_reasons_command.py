"""spade-xai reasons: the page, what is printed, JSON."""

import json

from command_line import FAST


def test_page_and_groups(run, pictures, tmp_path):
    code, out, _ = run(
        "reasons", pictures / "a.png", pictures / "b.png", *FAST, "-s", "0.5", "--groups", "2"
    )
    assert code == 0 and "group 1: a.png\ngroup 2: b.png" in out
    page = (tmp_path / "reasons.html").read_text()
    assert page.count("<figure>") == 2 and "Group 2: 1 picture," in page and "http" not in page


def test_json(run, pictures, tmp_path):
    files = [pictures / "a.png", pictures / "b.png"]
    code, out, _ = run("reasons", *files, *FAST, "-s", "0", "--json", "-o", tmp_path / "page.html")
    found = json.loads(out)
    assert code == 0 and found["names"] == ["a.png", "b.png"]
    assert found["kept"] == [[True, True], [True, True]] and found["groups"] == [0, 0]


def test_one_picture_is_refused(run, pictures):
    code, _, err = run("reasons", pictures / "a.png", *FAST, "-s", "0.5")
    assert code == 1 and "n >= 2" in err
