"""Tables of the pages that follow from the code, in place of the comments that name them."""

from sphinx.application import Sphinx

from spade_xai.attribution.methods import table

TABLES = {"<!-- table of saliency methods -->": table}


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Put each table where its comment stands."""
    for comment, made in TABLES.items():
        if comment in source[0]:
            source[0] = source[0].replace(comment, made())


def setup(app: Sphinx) -> dict[str, bool]:
    """Work on each page before it is parsed."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
