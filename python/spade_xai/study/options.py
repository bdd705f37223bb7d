"""What a study is like."""

from dataclasses import dataclass

from spade_ext.checks import check_int, check_range, check_seed
from spade_xai.study.regions import SHAPES

NEURONS = ("one", "both")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a study is like.

    Attributes:
        title: What raters read first.
        count: The most images; those that are left out do not count.
        region: The share of the picture that each region takes, in (0, 0.5).
        shape: "square": the square of that size where Score-CAM is largest on average; "pixels": the pixels where it
            is largest, wherever they are.
        cam_layer: The layer whose feature maps Score-CAM weighs; None: the last one.
        neurons: "one" of the two classes per image, as often the one as the other, or "both".
        steps: Steps of each visualisation.
        parametrization: As in `visualize`.
        pattern_size: Pixels per side of visualisations; None: as the network's inputs.
        tasks: Images per rater, even; None: all, 32 at most.
        repeats: Tasks that a rater gets twice; None: one in ten.
        seed: The seed of every draw.
    """

    title: str = "Which part of the picture?"
    count: int = 100
    region: float = 0.1
    shape: str = "square"
    cam_layer: str | None = None
    neurons: str = "one"
    steps: int = 512
    parametrization: str = "fourier"
    pattern_size: int | None = None
    tasks: int | None = None
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("build_study", "count", self.count, 2)
        check_int("build_study", "steps", self.steps, 1)
        check_range("build_study", "region", self.region, 0.0, 0.5)
        check_seed("build_study", self.seed)
        if self.shape not in SHAPES:
            raise ValueError(
                f"build_study: shape must be one of {', '.join(SHAPES)}, got {self.shape!r}"
            )
        if self.neurons not in NEURONS:
            raise ValueError(
                f"build_study: neurons must be one of {', '.join(NEURONS)}, got {self.neurons!r}"
            )
