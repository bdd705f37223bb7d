"""Pages of the site that are files of the repository, and links that lead from any page into the repository.

README, CONTRIBUTING and CHANGELOG lie at the repository's root, with links as they work there. Here their links, and
those of all pages to them, become links between pages of the site. A link to a folder keeps its text alone.
"""

import os.path
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = {"index": "README.md", "contributing": "CONTRIBUTING.md", "changes": "CHANGELOG.md"}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]+)?\)")
PICTURE = re.compile(r"(?<=\]\()docs/")


def on_site(text: str, origin: Path, page: Path) -> str:
    """The text with its links as seen from a page of the site; origin is the folder for which they are written."""
    pages = {ROOT / file: DOCS / f"{name}.md" for name, file in PAGES.items()}

    def link(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(origin / found["path"]))
        if target.is_dir():
            return found["text"]
        path = os.path.relpath(pages.get(target, target), page.parent)
        return f"[{found['text']}]({path}{found['anchor'] or ''})"

    return LINK.sub(link, text)


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the repository's file before what the page adds to it, and mend links."""
    page = DOCS / f"{name}.md"
    source[0] = on_site(source[0], page.parent, page)
    if name in PAGES:
        file = ROOT / PAGES[name]
        app.env.note_dependency(str(file))
        source[0] = PICTURE.sub("", on_site(file.read_text("utf-8"), ROOT, page)) + source[0]


def setup(app: Sphinx) -> dict[str, bool]:
    """Work on each page before it is parsed."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
