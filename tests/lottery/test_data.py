"""Published data sets read from tiny folders of their formats; what is missing or bad is named."""

import re

import pytest
import torch
from published_folders import make_concepts, make_cub, make_derm, make_folder, make_ham, picture

from spade_xai.lottery.data import cub, derm7pt, folders, ham10000, shapes
from spade_xai.lottery.data.open import open_concepts, open_data
from spade_xai.lottery.data.pictures import DataError, Variation, batches


@pytest.fixture
def birds(tmp_path):
    return make_cub(tmp_path / "CUB")


def test_cub_official_split(birds):
    data = open_data({"kind": "cub", "folder": str(birds)})
    assert data.classes[:2] == ("001.Bird_1", "002.Bird_2")
    assert [len(p) for p in (data.train, data.validation, data.test)] == [36, 12, 12]
    assert all(name.endswith("bird_4.jpg") for name in data.test.names)
    assert not set(data.train.names) & set(data.validation.names)
    assert data.test.picture(0, 8).shape == (3, 8, 8)
    assert data.digest() == open_data({"kind": "cub", "folder": str(birds)}).digest()


def test_cub_boxes_follow_the_cut(birds):
    """Of 20 x 16 pixels scaled by 1/2 and cut by one on each side: columns 4-12 become 1-5, rows 2-8 become 1-4."""
    region = open_data({"kind": "cub", "folder": str(birds)}).test.region(0, 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:4, 1:5] = True
    assert torch.equal(region, expected)


def test_cub_classes_limit_and_index_files(birds, tmp_path):
    spec = {"kind": "cub", "folder": str(birds), "classes": 2, "limit": 2}
    data = open_data(spec)
    assert len(data.classes) == 2 and len(data.train) == 4
    files = tmp_path / "split"
    files.mkdir()
    for name, ids in (("train", "1\n2\n6\n"), ("validation", "3\n"), ("test", "4\n9\n")):
        (files / f"{name}.txt").write_text(ids)
    data = cub.load(birds, str(files))
    assert [len(p) for p in (data.train, data.validation, data.test)] == [3, 1, 2]
    (files / "test.txt").write_text("1\n")
    with pytest.raises(DataError, match="image id 1 must be in one part"):
        cub.load(birds, str(files))
    with pytest.raises(DataError, match="split of cub must be official, or a folder"):
        cub.load(birds, "paper")


def test_cub_concepts(birds):
    """Kept: the attribute of ten classes. The one of two classes goes, as does that which a class of 50 % has not."""
    data = cub.load(birds)
    found = cub.concepts(birds, data)
    assert found.names == ("has_a::x", "has_c::z")
    by_class = {
        int(y): row for y, row in zip(data.train.labels, found.labels.tolist(), strict=True)
    }
    assert by_class[0] == [1, 1] and by_class[10] == [0, 1] and by_class[3] == [1, 0]
    with pytest.raises(DataError, match="bank cub needs a run on cub"):
        open_concepts("cub", {"kind": "shapes"}, shapes.load(shapes.Shapes(12, 12, 12)))


@pytest.mark.parametrize(
    "file, old, new, text",
    [
        ("images.txt", "3 001", "x 001", r"images.txt, line 3: expected an id and 1 values"),
        ("images.txt", "3 001", "2 001", r"images.txt, line 3: id 2 must come once"),
        ("image_class_labels.txt", "5 1\n", "5\n", r"image_class_labels.txt, line 5: expected an id"),
        ("image_class_labels.txt", "5 1\n", "5 99\n", r"class of image 5 must be in classes.txt, got 99"),
        ("train_test_split.txt", "7 1\n", "", r"train_test_split.txt must have a line of image 7"),
        ("bounding_boxes.txt", "1 4.0", "1 wide", r"bounding_boxes.txt, line 1: .*could not convert"),
        ("classes.txt", "2 002", "22 002", r"must be in classes.txt, got 2"),
    ],
)  # fmt: skip
def test_bad_lines_of_cub_are_named(birds, file, old, new, text):
    path = birds / file
    changed = path.read_text().replace(old, new, 1)
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(DataError, match=text):
        cub.load(birds)


def test_missing_files_of_cub_are_named(birds):
    (birds / "images" / "001.Bird_1" / "bird_0.jpg").unlink()
    with pytest.raises(DataError, match=r"no file .*001.Bird_1/bird_0.jpg, which images.txt names"):
        cub.load(birds)
    (birds / "images.txt").unlink()
    with pytest.raises(DataError, match=r"no file .*images.txt"):
        cub.load(birds)
    path = birds / "attributes" / "class_attribute_labels_continuous.txt"
    path.write_text("1 2\n")
    with pytest.raises(DataError, match="line 1: expected 3 percentages"):
        cub._percentages(birds, 3)


def test_ham10000_keeps_lesions_apart(tmp_path):
    data = ham10000.load(make_ham(tmp_path))
    assert data.classes == ("benign", "malignant")
    lesions = [
        {n.rsplit("_", 1)[0] for n in p.names} for p in (data.train, data.validation, data.test)
    ]
    assert all(lesions) and not (
        lesions[0] & lesions[1] or lesions[0] & lesions[2] or lesions[1] & lesions[2]
    )
    assert {
        n.split("_")[1] for n, y in zip(data.test.names, data.test.labels, strict=True) if y
    } == {"mel"}
    region = data.test.region(0, 16)
    assert data.test.has_regions and 0 < int(region.sum()) < region.numel()


def test_ham10000_as_the_paper_splits_it(tmp_path):
    """By photograph: those of one lesion come on both sides."""
    data = ham10000.load(make_ham(tmp_path, masks=False), "paper", 7)
    train, test = ({n.rsplit("_", 1)[0] for n in p.names} for p in (data.train, data.test))
    assert train & test and len(data.test) == 17
    assert data.classes == ham10000.DIAGNOSES and not data.test.has_regions
    assert set(data.test.labels.tolist()) == {2, 4, 5}


def test_bad_lines_of_ham10000_are_named(tmp_path):
    folder = make_ham(tmp_path, lesions=3, masks=False)
    table = folder / "HAM10000_metadata.csv"
    text = table.read_text()
    cases = [
        (text.replace(",nv,", ",wart,", 1), r"line 2: dx must be one of akiec"),
        (text.replace("lesion_id,", "lesion,", 1), r"line 1: there must be a column 'lesion_id'"),
        (text.replace("ISIC_nv_0_2", "ISIC_nv_0_1", 1), r"image_id ISIC_nv_0_1 must come once"),
        (text.replace("ISIC_nv_0_2", "ISIC_gone", 1), r"no file ISIC_gone.jpg"),
        (text.replace("HAM_nv_0,", ",", 1), r"line 2: lesion_id must have a value"),
        ("lesion_id,image_id,dx\n", "must hold rows"),
    ]
    for changed, message in cases:
        table.write_text(changed)
        with pytest.raises(DataError, match=message):
            ham10000.load(folder)
    table.write_text(text)
    with pytest.raises(DataError, match="split of ham10000 must be one of lesion, paper"):
        ham10000.load(folder, "official")
    with pytest.raises(DataError, match="classes of ham10000 must be 2 or 7"):
        ham10000.load(folder, classes=3)
    with pytest.raises(DataError, match="too few"):
        ham10000.load(folder, limit=1)


def test_derm7pt(tmp_path):
    found = open_concepts(f"derm7pt:{make_derm(tmp_path / 'derm')}", {"kind": "ham10000"}, None)
    assert found.names == tuple(derm7pt.CONCEPTS) and len(found.names) == 8
    assert found.pictures.names == (
        "A/d1.jpg",
        "A/d2.jpg",
        "A/d3.jpg",
        "A/d4.jpg",
    )  # not the test row
    assert found.labels.tolist() == [
        [0] * 8,
        [1, 1, -1, 1, 1, -1, 1, -1],
        [1, -1, 1, 1, -1, 1, -1, 1],
        [0, 0, 0, 1, 0, 0, 0, 0],
    ]


def test_bad_lines_of_derm7pt_are_named(tmp_path):
    folder = make_derm(tmp_path / "derm")
    meta = folder / "meta" / "meta.csv"
    text = meta.read_text()
    meta.write_text(text.replace("1,absent", "1,round", 1))
    with pytest.raises(DataError, match=r"meta.csv, line 2: pigment_network must be one of absent"):
        derm7pt.concepts(folder)
    meta.write_text(text)
    for content, message in (
        ("indexes\n9\n", "index must be below the 5 rows"),
        ("indexes\nx\n", "line 2: expected a whole number"),
    ):
        (folder / "meta" / "valid_indexes.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            derm7pt.concepts(folder)
    (folder / "meta" / "valid_indexes.csv").write_text("indexes\n3\n")
    (folder / "images" / "A" / "d4.jpg").unlink()
    with pytest.raises(DataError, match=r"no file .*A/d4.jpg, which .*meta.csv, line 5 names"):
        derm7pt.concepts(folder)


def test_folders_of_classes_and_concepts(tmp_path):
    data = folders.load(make_folder(tmp_path / "pets"))
    assert data.classes == ("cat", "dog")
    parts = [set(p.names) for p in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == 16 == len(set.union(*parts)) and all(parts)
    for part in ("train", "val", "test"):
        make_folder(tmp_path / "split" / part, each=3)
    data = folders.load(tmp_path / "split")
    assert [len(p) for p in (data.train, data.validation, data.test)] == [6, 6, 6]
    found = open_concepts(str(make_concepts(tmp_path / "bank")), {"kind": "folder"}, data)
    assert found.names == ("fur", "metal") and len(found.pictures) == 24
    assert found.labels[:6].tolist() == [[1, -1]] * 6 and found.labels[-1].tolist() == [-1, 0]


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        open_data({"kind": "folder", "folder": str(tmp_path / "none")})
    picture(tmp_path / "one" / "cat" / "0.png", 0)
    with pytest.raises(DataError, match="a folder for each of two classes or more, got 1"):
        folders.load(tmp_path / "one")
    (tmp_path / "one" / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog must hold images"):
        folders.load(tmp_path / "one")
    make_folder(tmp_path / "split" / "train")
    with pytest.raises(DataError, match="must have a folder test"):
        folders.load(tmp_path / "split")
    with pytest.raises(DataError, match=re.escape("shapes has no option 'colour'")):
        open_data({"kind": "shapes", "colour": 1})
    with pytest.raises(DataError, match="data set folder has no such option"):
        open_data({"kind": "folder", "folder": str(tmp_path), "split": "paper"})


def test_random_cuts_depend_on_seed_and_picture_alone(tmp_path):
    data = folders.load(make_folder(tmp_path / "pets", each=4))

    def cut(seed, batch, order=None):
        source = batches(data.train, 16, batch, order=order, variation=Variation(True, True, seed))
        return torch.cat([images for _, images, _ in source])

    assert torch.equal(cut(1, 2), cut(1, 4)) and not torch.equal(cut(1, 2), cut(2, 2))
    order = torch.arange(len(data.train)).flip(0)
    assert torch.equal(cut(1, 2, order), cut(1, 2).flip(0))


def test_shapes_are_the_same_for_the_same_seed_and_the_mark_tells_the_first_class():
    data, again = (shapes.load(shapes.Shapes(120, 60, 240)) for _ in range(2))
    assert torch.equal(data.train.images, again.train.images)
    marked, first = shapes.has_mark(data.train), data.train.labels == shapes.SHORTCUT_CLASS
    assert marked[first].float().mean() > 0.8 and not marked[~first].any()
    test = shapes.has_mark(data.test)
    assert 0.3 < test.float().mean() < 0.7
    concepts = shapes.concepts(shapes.Shapes(concepts=400))
    share = concepts.labels.double()
    both = (share.T @ share / len(share)) - share.mean(0)[:, None] * share.mean(0)
    mark = shapes.CONCEPTS.index(shapes.SHORTCUT)
    others = [c for c in range(len(shapes.CONCEPTS)) if c != mark]
    assert both[mark, others].abs().max() < 0.05  # independent of all other concepts
