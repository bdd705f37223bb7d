"""Tiny folders in the formats that CUB-200-2011, HAM10000 and Derm7pt are published in."""

import numpy as np
from PIL import Image


def picture(path, seed, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_cub(folder, classes=12, each=5):
    """Classes of which those of even number have the first attribute; the second is in two classes only."""
    lines = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    k = 0
    for c in range(1, classes + 1):
        for i in range(each):
            k += 1
            name = f"{c:03d}.Bird_{c}/bird_{i}.jpg"
            picture(folder / "images" / name, k)
            lines["images"].append(f"{k} {name}")
            lines["image_class_labels"].append(f"{k} {c}")
            lines["train_test_split"].append(f"{k} {int(i < each - 1)}")
            lines["bounding_boxes"].append(f"{k} 4.0 2.0 8.0 6.0")
    lines["classes"] = [f"{c} {c:03d}.Bird_{c}" for c in range(1, classes + 1)]
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    (folder / "attributes").mkdir()
    (folder / "attributes" / "attributes.txt").write_text("1 has_a::x\n2 has_b::y\n3 has_c::z\n")
    rows = [
        f"{90.0 if c < 10 else 10.0} {80.0 if c < 2 else 0.0} {60.0 if c != 3 else 50.0}"
        for c in range(classes)
    ]
    (folder / "attributes" / "class_attribute_labels_continuous.txt").write_text("\n".join(rows))
    return folder


def make_ham(folder, lesions=14, masks=True):
    """Two photographs of each lesion, in two folders."""
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for dx in ("nv", "mel", "bkl"):
        for k in range(lesions):
            for part in (1, 2):
                image = f"ISIC_{dx}_{k}_{part}"
                rows.append(f"HAM_{dx}_{k},{image},{dx},histo,50.0,male,back")
                picture(folder / f"HAM10000_images_part_{part}" / f"{image}.jpg", k)
                if masks:
                    mask = np.zeros((16, 20), np.uint8)
                    mask[4:10, 6:14] = 255
                    where = folder / "HAM10000_segmentations" / f"{image}_segmentation.png"
                    where.parent.mkdir(exist_ok=True)
                    Image.fromarray(mask).save(where)
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


DERM_HEADER = "case_num,pigment_network,streaks,regression_structures,dots_and_globules,blue_whitish_veil,clinic,derm"
DERM_ROWS = [
    "1,absent,absent,absent,absent,absent,A/c1.jpg,A/d1.jpg",
    "2,typical,regular,blue areas,regular,present,A/c2.jpg,A/d2.jpg",
    "3,atypical,irregular,combinations,irregular,present,A/c3.jpg,A/d3.jpg",
    "4,absent,absent,white areas,absent,absent,A/c4.jpg,A/d4.jpg",
    "5,typical,absent,absent,irregular,absent,A/c5.jpg,A/d5.jpg",
]


def make_derm(folder):
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "meta.csv").write_text("\n".join([DERM_HEADER, *DERM_ROWS]) + "\n")
    (folder / "meta" / "train_indexes.csv").write_text("indexes\n0\n1\n")
    (folder / "meta" / "valid_indexes.csv").write_text("indexes\n2\n3\n")
    (folder / "meta" / "test_indexes.csv").write_text("indexes\n4\n")
    for k in range(1, 6):
        picture(folder / "images" / "A" / f"d{k}.jpg", k)
    return folder


def make_folder(folder, classes=("cat", "dog"), each=8):
    for c, name in enumerate(classes):
        for k in range(each):
            picture(folder / name / f"{k}.png", 100 * c + k, (40, 32))
    return folder


def make_concepts(folder, names=("fur", "metal"), each=6):
    for c, name in enumerate(names):
        for part, shift in (("positives", 0), ("negatives", 50)):
            for k in range(each):
                picture(folder / name / part / f"{k}.png", 1000 * c + shift + k, (40, 32))
    return folder
