"""A directive that shows a C header function by function: `c-header` with the header's path.

Each declaration, or group of declarations that share a comment, gets a heading and its comment, which is the contract,
as it stands in the header.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# A line such as "/* ----- Exact OBC */" begins a part of the header.
PART = re.compile(r"^/\* -{10,} (?P<title>.+?) \*/$", re.M)
# A comment and what it speaks of: lines up to the next comment of the first column, or the end of the C++ guard.
BLOCK = re.compile(r"^/\*\*.*?\*/\n.*?(?=^/\*|^#ifdef __cplusplus\n}|\Z)", re.M | re.S)
NAME = re.compile(r"(spade_\w+?)(?:_f32|_f64)?\(|^} (spade_\w+);|\(\*(spade_\w+)\)\(", re.M)


def parts(header: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, [(name, text)]) of each part of a header; the first one's title is empty."""
    body = header.split('extern "C" {\n#endif\n', 1)[1]
    titles = ["", *PART.findall(body)]
    texts = PART.split(body)[::2]
    found = []
    for title, text in zip(titles, texts, strict=True):
        blocks = [block.strip() for block in BLOCK.findall(text)]
        found.append((title, [(name_of(block), block) for block in blocks]))
    return found


def name_of(block: str) -> str:
    """The first function or type that a block declares; a workspace query names its operation."""
    code = re.sub(r"/\*.*?\*/", "", block, flags=re.S)
    names = [next(filter(None, groups)) for groups in NAME.findall(code)]
    return names[0].removesuffix("_workspace_bytes")


class CHeader(SphinxDirective):
    """Show a header: its opening comment, then a section for each name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        header = Path(path).read_text(encoding="utf-8")
        opening = header[: header.index("#ifndef")].strip()
        result: list[nodes.Node] = [literal(opening)]
        stem = Path(path).stem
        for title, blocks in parts(header):
            made = [self.section(name, name, [literal(text)]) for name, text in blocks]
            result += [self.section(f"{stem} {title}", title, made)] if title else made
        return result

    def section(self, anchor: str, title: str, content: list[nodes.Node]) -> nodes.section:
        """A section with its title."""
        section = nodes.section(ids=[nodes.make_id(anchor)], names=[anchor])
        section += nodes.title(text=title)
        section += content
        self.state.document.note_implicit_target(section)
        return section


def literal(text: str) -> nodes.literal_block:
    """C code."""
    return nodes.literal_block(text, text, language="c")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("c-header", CHeader)
    return {"parallel_read_safe": True}
