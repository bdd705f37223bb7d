"""CelebA as it is published: one folder of pictures, a list of their 40 labels and one of their parts."""

from pathlib import Path

from spade_xai.models.images import ImageError
from spade_xai.trojans.class_folder import ClassFolder

PICTURES, LABELS, PARTS = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
TRAIN, TEST = "0", "2"


def celeba(folder: Path) -> tuple[ClassFolder, ClassFolder]:
    """The pictures to train on and those to test on; labels are 0 or 1 each, in the alphabetical order of their names.

    Raises:
        ImageError: A file or the folder of pictures is missing, or a list is not as published.
    """
    lines = _lines(folder / LABELS)
    if len(lines) < 3 or lines[0].strip() != str(len(lines) - 2):
        raise ImageError(
            f"plant: {folder / LABELS} must hold the number of pictures, the names of labels and one line per picture, "
            f"got {len(lines)} lines of which the first is {''.join(lines[:1])!r}"
        )
    names = lines[1].split()
    order = sorted(range(len(names)), key=lambda k: names[k])
    given: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(lines[2:], 3):
        file, *values = line.split()
        if len(values) != len(names) or not set(values) <= {"-1", "1"}:
            raise ImageError(
                f"plant: line {number} of {folder / LABELS} must hold a file and -1 or 1 for each of {len(names)} "
                f"labels, got {len(values)} values"
            )
        given[file] = tuple(int(values[k] == "1") for k in order)
    part_of = dict(line.split()[:2] for line in _lines(folder / PARTS) if len(line.split()) > 1)
    if not (folder / PICTURES).is_dir():
        raise ImageError(f"plant: no folder {folder / PICTURES}")
    found = []
    for part in (TRAIN, TEST):
        files = [name for name in given if part_of.get(name) == part]
        if not files:
            raise ImageError(f"plant: {folder / PARTS} must name pictures of part {part}, got none")
        labels = [given[name] for name in files]
        paths = [folder / PICTURES / name for name in files]
        if missing := [path for path in paths if not path.is_file()]:
            raise ImageError(
                f"plant: {folder / PICTURES} must hold the pictures of {folder / LABELS}, got {len(missing)} fewer, "
                f"such as {missing[0].name}"
            )
        found.append(ClassFolder(paths, labels, [names[k] for k in order]))
    return found[0], found[1]


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"plant: cannot read {file}: {error}") from None
