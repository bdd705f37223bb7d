"""The options of commands that take texts."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from spade_xai.models.texts import SUFFIXES

PANEL = "Texts"


class TextFormat(str, enum.Enum):
    """How a file of texts is read; see `read_texts`."""

    AUTO = "auto"
    LINES = "lines"
    SST2 = "sst2"
    STANFORD = "stanford"
    AG_NEWS = "ag_news"


class Baseline(str, enum.Enum):
    """What counts as no text; see `token_map`."""

    PAD = "pad"
    ZERO = "zero"


class Synonyms(str, enum.Enum):
    """Where synonyms come from."""

    AUTO = "auto"
    WORDNET = "wordnet"
    EMBEDDING = "embedding"


SynonymsOption = Annotated[
    Synonyms,
    typer.Option(
        rich_help_panel=PANEL,
        help="Synonyms of --augment eda: wordnet (EDA's, by nltk and its data), embedding (the nearest words of "
        "the model's embedding), or auto: wordnet if it is at hand, else embedding, which is said.",
    ),
]


@dataclass(frozen=True)
class TextOptions:
    """How texts are read, varied and explained."""

    text_format: Annotated[
        TextFormat,
        typer.Option(
            rich_help_panel=PANEL,
            help="How a file of texts is read: lines (one per line), sst2 (GLUE's .tsv), stanford (a label and a "
            "sentence per line), ag_news (.csv); auto goes by the ending.",
        ),
    ] = TextFormat.AUTO
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, rich_help_panel=PANEL, show_default="all", help="The first so many texts of the files."
        ),
    ] = None  # fmt: skip
    baseline: Annotated[
        Baseline,
        typer.Option(
            rich_help_panel=PANEL,
            help="What counts as no text: pad ([PAD] between the kept [CLS] and [SEP], as published) or zero.",
        ),
    ] = Baseline.PAD
    synonyms: SynonymsOption = Synonyms.AUTO

    def refuse(self) -> None:
        """Refuse options of texts where images are given.

        Raises:
            ValueError: One is not its default.
        """
        for name, default in vars(TextOptions()).items():
            if getattr(self, name) != default:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is for texts, and the files given are images")


def are_texts(sources: Sequence[str] | None) -> bool:
    """Whether sources are files of texts; a command takes these or images.

    Raises:
        ValueError: Some are and others are not.
    """
    found = [Path(source).suffix.lower() in SUFFIXES for source in sources or ()]
    if any(found) and not all(found):
        other = next(s for s, text in zip(sources or (), found, strict=True) if not text)
        raise ValueError(f"the files must all be texts ({', '.join(SUFFIXES)}), got {other}")
    return any(found)
