"""The pages of a study as plain files: index.html with its script, texts, tasks and pictures."""

import hashlib
import html
import json
from importlib import resources
from pathlib import Path
from typing import Any

from spade_ext.files import write_bytes
from spade_xai.study.folder import SITE, Study
from spade_xai.study.packages import library_files, tags

_SECONDS = 15  # that a task takes, for the consent text
_COVER = "#808080"
# x, y and radius of what the regions of the practice scene show
_LIGHTHOUSE, _BUSH = (66, 108, 62), (172, 150, 60)
_HOSTS = """\
// What to do with a rater's answers where this folder lies on a host of your own. `save` is called once, at the end,
// with {{format, study, list, rater, answers}}; it may return a promise. null: JATOS takes them where there is one,
// else the rater downloads them as a file.
window.STUDY_HOST = {{ kind: "{kind}", save: null }};
"""


def write_site(
    folder: Path, study: Study, *, library: str, consent: str | None, contact: str | None
) -> dict[str, str]:
    """Write what raters are given; the pictures of the study are there already.

    Args:
        folder: Of the study.
        study: Images, tasks and lists.
        library: Where jsPsych comes from, as in `library_files`.
        consent: Text of the consent page, with an empty line between paragraphs; None: the one that ships.
        contact: Whom raters can ask, in the consent text that ships.

    Returns:
        The SHA-256 of each file that never changes, by path below site/.
    """
    site = folder / SITE
    files = dict(library_files(library))
    drawings = _drawings()
    places = {}
    for name, data in drawings.items():
        places[name] = f"pictures/{hashlib.sha256(data).hexdigest()[:24]}.svg"
        files[places[name]] = data
    texts = _texts(study, places, consent, contact)
    lists = [[study.shown(slot) for slot in slots] for slots in study.lists]
    files |= {
        "index.html": _index(study.title, library).encode(),
        "texts.js": _script("STUDY_TEXTS", texts),
        "style.css": _asset("style.css"),
        "experiment.js": _asset("experiment.js"),
        "lists.js": _script("STUDY_LISTS", lists),
        "host.js": host_script("files"),
    }
    for name, data in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(site / name, data)
    pictures = {file for image in study.images for file in (image.picture, *image.regions)}
    pictures |= {task.pattern for task in study.tasks}
    made = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    made |= {name: hashlib.sha256((site / name).read_bytes()).hexdigest() for name in pictures}
    del made["host.js"]  # whoever hosts the files may say where answers go
    return dict(sorted(made.items()))


def host_script(kind: str) -> bytes:
    """host.js: "files" on any host, "server" as `study serve` gives it."""
    return _HOSTS.format(kind=kind).encode()


def _texts(
    study: Study, places: dict[str, str], consent: str | None, contact: str | None
) -> dict[str, Any]:
    texts = json.loads(_asset("texts.json"))
    count = len(study.lists[0])
    asked = texts["contact"].format(contact=contact) if contact else texts["no_contact"]
    ours = "\n\n".join(texts["consent"]).format(
        tasks=count, minutes=max(2, 2 + round(count * _SECONDS / 60)), contact=asked
    )
    texts["consent"] = consent if consent is not None else ours
    texts["pages"] = [_placed(page, places) for page in texts["pages"]]
    texts["practice"] = [
        {k: _placed(v, places) if isinstance(v, str) else v for k, v in example.items()}
        for example in texts["practice"]
    ]
    return {"title": study.title, "study": study.id, **texts}


def _placed(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", place)
    return text


def _drawings() -> dict[str, bytes]:
    """The pictures of instructions and practice."""
    scene = _asset("scene.svg").decode()
    drawings = {name: _asset(f"{name}.svg") for name in ("stripes", "dots", "cells")}
    drawings["scene"] = scene.encode()
    for name, (x, y, radius) in {"left": _LIGHTHOUSE, "right": _BUSH}.items():
        hole = f"M{x - radius} {y}a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 {-2 * radius} 0Z"
        cover = f'<path fill="{_COVER}" fill-rule="evenodd" d="M0 0H240V240H0Z{hole}"/>'
        drawings[name] = scene.replace("<!--cover-->", cover).encode()
    return drawings


def _index(title: str, library: str) -> str:
    page = _asset("index.html").decode()
    return page.replace("{{ title }}", html.escape(title)).replace("{{ library }}", tags(library))


def _script(name: str, value: Any) -> bytes:
    text = json.dumps(value, indent=1, sort_keys=True).replace("</", "<\\/")
    return f"window.{name} = {text};\n".encode()


def _asset(name: str) -> bytes:
    return resources.files("spade_xai.study").joinpath("assets", name).read_bytes()
