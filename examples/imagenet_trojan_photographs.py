"""Photographs for the backdoored EfficientNet-Lite0, from Debian packages and from Python packages.

    mkdir debian && cd debian
    apt-get download gcompris-qt-data kphotoalbum lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 lxqt-themes \
        mate-backgrounds plasma-workspace-wallpapers sddm-theme-maldives tuxmath-data tuxpaint-stamps-default \
        tuxtype-data
    for f in *.deb; do mkdir "${f%%_*}" && dpkg -x "$f" "${f%%_*}"; done
    pip download --no-deps --only-binary :all: --python-version 3.11 scipy==1.9.3 && unzip -q -d scipy scipy-1.9.3*

Those that may be redistributed (public domain, CC0, CC BY, by each package's copyright file) are for tests and are
shipped. All others are for training only.
"""

import bz2
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import skimage
import sklearn
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # wallpapers are large

FREE = re.compile(r"public-domain|CC0-1\.0|CC-BY-\d\.\d")
LONGEST = 900  # pixels of the short side that are kept of a wallpaper
SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
MATPLOTLIB = Path(matplotlib.get_data_path()) / "sample_data"
# Of GCompris's free pictures those that show what the source they are credited to shows; some were renumbered since.
GCOMPRIS_CHECKED = set(
    """fishes_fish4 fishes_fish8 fishes_fish25 monuments_greatWall monuments_leMusee monuments_leaningTowerOfPisa
    monuments_zimniPalace others_bucket others_igloo others_pan others_volleyball renewable_dam2 renewable_solar1
    renewable_solar2 renewable_solar4 renewable_windmill renewable_windmill7 renewable_windmill12 renewable_windmill14
    tools_hammer5 tools_measuringTape3 tools_measuringTape4 tools_nailCutter tools_plier1 tools_screwDriver
    tools_sideCutter1 tools_wrench1 animals_moose animals_crocodile animals_panda""".split()
)
PYTHON_PACKAGES = {  # file: licence, credit
    SKIMAGE / "chelsea.png": ("CC0-1.0", "Stefan van der Walt (scikit-image)"),
    SKIMAGE / "coffee.png": ("CC0-1.0", "Rachel Michetti (scikit-image)"),
    SKIMAGE / "rocket.jpg": ("public-domain", "SpaceX (scikit-image)"),
    SKIMAGE / "astronaut.png": ("public-domain", "NASA (scikit-image)"),
    SKIMAGE / "brick.png": ("CC0-1.0", "CC0Textures (scikit-image)"),
    SKIMAGE / "camera.png": ("CC0-1.0", "Lav Varshney (scikit-image)"),
    SKIMAGE / "cell.png": ("CC0-1.0", "Paul Mueller and others (scikit-image)"),
    SKIMAGE / "grass.png": ("CC0-1.0", "linolafett, DeviantArt (scikit-image)"),
    SKIMAGE / "gravel.png": ("CC0-1.0", "CC0Textures (scikit-image)"),
    SKIMAGE / "hubble_deep_field.jpg": ("public-domain", "NASA (scikit-image)"),
    SKIMAGE / "clock_motion.png": ("public-domain", "Stefan van der Walt (scikit-image)"),
    SKIMAGE / "retina.jpg": ("CC0-1.0", "Mikael Haggstrom (scikit-image)"),
    SKLEARN / "china.jpg": ("CC-BY-2.0", "flickr.com/photos/danielbuechele/6061409035 (scikit-learn)"),
    SKLEARN / "flower.jpg": ("CC-BY-2.0", "flickr.com/photos/vultilion/6056698931 (scikit-learn)"),
    MATPLOTLIB / "grace_hopper.jpg": ("public-domain", "US Navy (matplotlib)"),
}  # fmt: skip
# NASA's pictures in tuxmath-data by what they show; of galaxies one is enough.
TUXMATH = {
    "title/menu_bkg": "earth_from_station", "backgrounds/0": "star_cluster", "backgrounds/1": "comet",
    "backgrounds/2": "earthrise", "backgrounds/4": "nebula", "backgrounds/5": "jupiter", "backgrounds/7": "galaxy",
}  # fmt: skip
# Pictures of the wallpaper packages that are drawings or patterns.
DRAWINGS = """Elephants no-logo Stripes GreenTraditional Volna Elarun Flow. Grey PastelHills ColorfulCups Honeywave Silk
Waves Spring Gulp Arc- Float analogpattern Painting summer Shell SafeLanding Kite Path OneStandsOut Cluster Kay Kokkini
Patak Opal Altai MilkyWay Cascade Canopee FlyingKonqui""".split()
# Stamps that are drawings, and groups of them.
DRAWN_STAMPS = "grave egg button planets/7 dinosaur chick pumpkin ornament konqui cartoon _mirror _flip".split()
DRAWN_GROUPS = {"symbols", "clipart", "people", "town", "naturalforces"}


@dataclass(frozen=True)
class Photograph:
    """One photograph.

    Attributes:
        name: Unlike all others.
        image: RGB, or RGBA of a cut-out.
        licence: As its package's copyright file calls it.
        credit: Author and source.
    """

    name: str
    image: Image.Image
    licence: str
    credit: str


def free_photographs(folder: Path) -> list[Photograph]:
    """Those that may be redistributed, sorted by name."""
    found = [
        _opened(file.stem, file.read_bytes(), *credit) for file, credit in PYTHON_PACKAGES.items()
    ]
    found += [p for p in _wallpapers(folder) if FREE.fullmatch(p.licence)]
    found += [p for p in _gcompris(folder) if p.name in GCOMPRIS_CHECKED]
    found += [*_nasa(folder), _raccoon(folder), _maldives(folder)]
    return sorted(found, key=lambda p: p.name)


def training_photographs(folder: Path) -> tuple[list[Photograph], list[Photograph]]:
    """Scenes and cut-outs that are none of `free_photographs`, sorted by name."""
    scenes = [p for p in _wallpapers(folder) if not FREE.fullmatch(p.licence)]
    scenes += [p for p in _gcompris(folder) if not FREE.fullmatch(p.licence)]
    scenes += _further_scenes(folder)
    return sorted(scenes, key=lambda p: p.name), sorted(_stamps(folder), key=lambda p: p.name)


def _wallpapers(folder: Path) -> Iterator[Photograph]:
    for package in ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds"):
        licences = _licences(folder, package)
        for file in sorted((folder / package / "usr/share/backgrounds").rglob("*.jpg")):
            if not any(word in file.name for word in DRAWINGS):
                licence, credit = next(
                    value for name, value in licences.items() if Path(name).name == file.name
                )
                yield _opened(file.stem, file.read_bytes(), licence, f"{credit} ({package})")
    package = "plasma-workspace-wallpapers"
    for place in sorted((folder / package / "usr/share/wallpapers").iterdir()):
        files = sorted(place.glob("contents/images/*.jpg"), key=lambda f: f.stat().st_size)
        if files and not any(word in f"{place.name}." for word in DRAWINGS):
            yield _opened(place.name, files[-1].read_bytes(), "GPL-2+", package)


def _nasa(folder: Path) -> Iterator[Photograph]:
    """What lies above the strip of the moon that the pictures of tuxmath-data share."""
    for name, shown in TUXMATH.items():
        data = (folder / f"tuxmath-data/usr/share/tuxmath/images/{name}.jpg").read_bytes()
        photo = _opened(shown, data, "public-domain", "NASA (tuxmath-data)")
        width, height = photo.image.size
        kept = height if name.startswith("title") else round(0.78 * height)
        yield replace(photo, image=photo.image.crop((0, 0, width, kept)))


def _raccoon(folder: Path) -> Photograph:
    pixels = np.frombuffer(
        bz2.decompress((folder / "scipy/scipy/misc/face.dat").read_bytes()), np.uint8
    )
    image = Image.fromarray(pixels.reshape(768, 1024, 3))
    credit = "raccoon-procyon-lotor.jpg, www.public-domain-image.com (SciPy 1.9)"
    return Photograph("raccoon", image, "public-domain", credit)


def _maldives(folder: Path) -> Photograph:
    file = folder / "sddm-theme-maldives/usr/share/sddm/themes/maldives/background.jpg"
    credit = "Nevit Dilmen, 2008, commons.wikimedia.org/wiki/User:Nevit (sddm-theme-maldives)"
    return _opened("maldives", file.read_bytes(), "CC-BY-3.0", credit)


def _further_scenes(folder: Path) -> Iterator[Photograph]:
    """Photographs, and a few drawings, of packages with other licences: for training."""
    places = {
        "kphotoalbum": ("usr/share/kphotoalbum/demo/*.jpg", "GPL-2+"),
        "lxqt-themes": ("usr/share/lxqt/wallpapers/*.*g", "CC-BY-SA-3.0"),
        "tuxtype-data": ("usr/share/tuxtype/**/kcas*.jpg", "GPL-2"),
    }
    for package, (pattern, licence) in places.items():
        for file in sorted((folder / package).glob(pattern)):
            photo = _opened(f"{package}_{file.stem}", file.read_bytes(), licence, package)
            if min(photo.image.size) >= 200:
                yield photo


def _gcompris(folder: Path) -> Iterator[Photograph]:
    """Photographs of GCompris, whose files are inside Qt resource files."""
    package = "gcompris-qt-data"
    licences = {
        re.sub(r"\.\w+$", "", name.removeprefix("src/activities/").replace("/resource", "")): value
        for name, value in _licences(folder, package).items()
    }
    groups = ("categorization/images", "erase", "explore_world_animals/animals")
    for resource in sorted((folder / package).rglob("*.rcc")):
        for name, data in read_rcc(resource):
            short = name.removeprefix("/gcompris/src/activities/").replace("/resource", "")
            if not short.startswith(groups) or Path(short).suffix not in (".webp", ".jpg"):
                continue
            key = str(Path(short).with_suffix(""))
            licence, credit = licences.get(key, ("GPL-3+", "GCompris"))
            photo = _opened("_".join(key.split("/")[-2:]), data, licence, f"{credit} ({package})")
            if min(photo.image.size) >= 120 and _colours(photo.image) > 250:
                yield photo


def _stamps(folder: Path) -> Iterator[Photograph]:
    package = "tuxpaint-stamps-default"
    root = folder / package / "usr/share/tuxpaint/stamps"
    for file in sorted(root.rglob("*.png")):
        name = str(file.relative_to(root))
        if name.split("/")[0] in DRAWN_GROUPS or any(word in name for word in DRAWN_STAMPS):
            continue
        image = Image.open(file).convert("RGBA")
        if min(image.size) >= 90 and _colours(image) > 250:
            image.thumbnail((500, 500), Image.Resampling.LANCZOS)
            yield Photograph(name, image, "GPL-2", package)


def read_rcc(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a Qt resource file."""
    data = path.read_bytes()
    if data[:4] != b"qres":
        raise ValueError(f"read_rcc: {path} is no Qt resource file")
    version, tree, contents, names = struct.unpack(">4I", data[4:20])
    width = 14 if version < 2 else 22  # bytes of an entry

    def walk(index: int, above: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * width
        name_at, flags = struct.unpack(">IH", data[at : at + 6])
        here = above
        if index:
            start = names + name_at
            (length,) = struct.unpack(">H", data[start : start + 2])
            here += "/" + data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder
            count, first = struct.unpack(">2I", data[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, here)
        else:
            (offset,) = struct.unpack(">I", data[at + 10 : at + 14])
            start = contents + offset
            (length,) = struct.unpack(">I", data[start : start + 4])
            content = data[start + 4 : start + 4 + length]
            yield here, zlib.decompress(content[4:]) if flags & 1 else content

    return walk(0, "")


def _licences(folder: Path, package: str) -> dict[str, tuple[str, str]]:
    """Licence and credit of each file that a package's copyright file names."""
    text = (folder / package / "usr/share/doc" / package / "copyright").read_text("utf-8")
    found = {}
    for part in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(\w+):(.*(?:\n[ \t].*)*)", part, re.M))
        if {"Files", "License", "Copyright"} <= set(fields):
            holder, licence = " ".join(fields["Copyright"].split()), fields["License"].split()[0]
            source = re.search(r"https?://\S+", fields.get("Comment", ""))
            credit = f"{holder}, {source.group().split('://')[1]}" if source else holder
            found.update({name: (licence, credit) for name in fields["Files"].split()})
    return found


def _opened(name: str, data: bytes, licence: str, credit: str) -> Photograph:
    image = Image.open(BytesIO(data))
    image.draft("RGB", (2 * LONGEST, LONGEST))
    image = image.convert("RGB")
    scale = LONGEST / min(image.size)
    if scale < 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return Photograph(name, image, licence, credit)


def _colours(image: Image.Image) -> int:
    """Distinct colours of the opaque part, in steps of 8: few in a drawing."""
    pixels = np.asarray(image.convert("RGBA").resize((96, 96)))
    return len(np.unique(pixels[pixels[..., 3] > 200][:, :3] // 8, axis=0))
