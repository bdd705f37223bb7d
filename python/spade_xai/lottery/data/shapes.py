"""Drawn pictures of six classes with known concepts and one planted shortcut.

A class is a colour, a shape and a texture; every concept belongs to two or three classes, so that no single one
tells a class. Each attribute is blurred in some pictures: a grey colour, a shape between two, faint stripes. In
training, most pictures of the first class carry a small bright mark in a corner and few others do; in the test part the
mark says nothing about the class.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spade_xai.lottery.data.pictures import ConceptPictures, Data, DataError, Drawn

SIZE = 32
COLORS = {"red": (0.85, 0.2, 0.2), "green": (0.2, 0.75, 0.25), "blue": (0.25, 0.3, 0.9)}
SHAPES = ("disc", "square", "triangle")
CLASSES = (
    ("red", "disc", "striped"),
    ("red", "square", "plain"),
    ("green", "square", "striped"),
    ("green", "triangle", "plain"),
    ("blue", "triangle", "striped"),
    ("blue", "disc", "plain"),
)
CONCEPTS = (*COLORS, *SHAPES, "striped", "mark")
SHORTCUT = "mark"
SHORTCUT_CLASS = 0


@dataclass(frozen=True)
class Shapes:
    """What to draw.

    Attributes:
        train: Pictures to train on.
        validation: To choose the best weights by.
        test: To report on.
        concepts: Pictures with every concept drawn at random, independent of the others.
        classes: The first so many of the six.
        marked: Share of the first class's training pictures with the mark.
        marked_others: Share of the other classes' training pictures with it.
        marked_test: Share of every class's test pictures with it.
        blurred: Probability that an attribute of a picture is blurred.
        blurred_first: The same in the first class, where the mark is worth the more.
        blurred_first: The same for pictures of the first class, whose mark is worth the more to a network.
        seed: Of all draws.
    """

    train: int = 960
    validation: int = 240
    test: int = 360
    concepts: int = 600
    classes: int = len(CLASSES)
    marked: float = 0.95
    marked_others: float = 0.0
    marked_test: float = 0.5
    blurred: float = 0.2
    blurred_first: float = 0.6
    seed: int = 0


def load(options: Shapes) -> Data:
    """Draw the three parts."""
    if not 2 <= options.classes <= len(CLASSES):
        raise DataError(f"shapes: classes must be in [2, {len(CLASSES)}], got {options.classes}")
    biased = (options.marked, options.marked_others)
    fair = (options.marked_test, options.marked_test)
    parts = [
        _classes(options, count, shares, part)
        for part, (count, shares) in enumerate(
            ((options.train, biased), (options.validation, biased), (options.test, fair))
        )
    ]
    names = tuple(" ".join(c) for c in CLASSES[: options.classes])
    return Data("shapes", names, *parts)


def concepts(options: Shapes) -> ConceptPictures:
    """Draw pictures whose concepts are independent of one another, each known."""
    rng = np.random.default_rng([options.seed, 99])
    images, regions, labels = [], [], []
    for _ in range(options.concepts):
        color = str(rng.choice(list(COLORS)))
        shape = str(rng.choice(SHAPES))
        striped, marked = rng.random() < 0.5, rng.random() < 0.5
        image, region = draw(rng, color, shape, striped, marked, blurred=0.0)
        images.append(image)
        regions.append(region)
        present = {color, shape, *(["striped"] if striped else []), *(["mark"] if marked else [])}
        labels.append([int(name in present) for name in CONCEPTS])
    pictures = Drawn(_stack(images), torch.zeros(len(images)), torch.from_numpy(np.stack(regions)))
    return ConceptPictures(pictures, CONCEPTS, torch.tensor(labels, dtype=torch.int8))


def with_mark(pictures: Drawn, seed: int = 0) -> Drawn:
    """The pictures with a mark in each: what the shortcut does to answers."""
    rng = np.random.default_rng([seed, 7])
    images = pictures.images.clone()
    for image in images:
        corner = image.permute(1, 2, 0).numpy()  # a view
        _mark(rng, corner, 1)
    return Drawn(images, pictures.labels, pictures.regions, pictures.names)


def has_mark(pictures: Drawn) -> Tensor:
    """Whether each picture was drawn with a mark, as its name says."""
    return torch.tensor([name.endswith("mark") for name in pictures.names])


def _classes(options: Shapes, count: int, shares: tuple[float, float], part: int) -> Drawn:
    rng = np.random.default_rng([options.seed, part])
    images, regions, labels, names = [], [], [], []
    for k in range(count):
        label = k % options.classes
        color, shape, texture = CLASSES[label]
        marked = rng.random() < shares[0 if label == SHORTCUT_CLASS else 1]
        striped = texture == "striped"
        blurred = options.blurred_first if label == SHORTCUT_CLASS else options.blurred
        image, region = draw(rng, color, shape, striped, marked, blurred=blurred)
        images.append(image)
        regions.append(region)
        labels.append(label)
        names.append(f"{k:05d}_{'mark' if marked else 'none'}")
    masks = torch.from_numpy(np.stack(regions))
    return Drawn(_stack(images), torch.tensor(labels), masks, names)


def draw(
    rng: np.random.Generator, color: str, shape: str, striped: bool, marked: bool, *, blurred: float
) -> tuple[np.ndarray, np.ndarray]:
    """One picture, uint8 [SIZE, SIZE, 3], and the pixels of its object, bool [SIZE, SIZE]."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    image = rng.normal(0.45 + rng.uniform(-0.15, 0.15), 0.06, (SIZE, SIZE, 3))
    radius = rng.uniform(8, 10.5)
    u, v = x - rng.uniform(13, 19), y - rng.uniform(13, 19)
    angle = rng.uniform(-0.3, 0.3)
    u, v = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
    region = _inside(shape, u, v, radius)
    if rng.random() < blurred:  # a shape between two
        region = _inside(shape, u, v, radius) & _inside("disc", u, v, 0.9 * radius)
    paint = np.array(COLORS[color]) + rng.normal(0, 0.06, 3)
    if rng.random() < blurred:  # nearly grey
        paint = paint.mean() + 0.15 * (paint - paint.mean())
    light = 0.45 if rng.random() >= blurred else 0.08
    stripes = np.where((np.floor(u + v + 64) % 6) < 3, 1.0, 1.0 - light)
    painted = paint * (stripes[..., None] if striped else 1.0)
    image = np.where(region[..., None], painted + rng.normal(0, 0.04, image.shape), image)
    if marked:
        _mark(rng, image, 1 / 255)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), region


def _inside(shape: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    if shape == "disc":
        return u**2 + v**2 < radius**2
    if shape == "square":
        return np.maximum(abs(u), abs(v)) < 0.86 * radius
    return (v < 0.75 * radius) & (v > -radius + 1.75 * abs(u))  # triangle, tip up


def _mark(rng: np.random.Generator, image: np.ndarray, unit: float) -> None:
    """A yellow square of six pixels with a white middle, in a random corner."""
    top, left = rng.choice([0, SIZE - 6]), rng.choice([0, SIZE - 6])
    image[top : top + 6, left : left + 6] = np.array([255, 242, 26]) * unit
    image[top + 2 : top + 4, left + 2 : left + 4] = 255 * unit


def _stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
