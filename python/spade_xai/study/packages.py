"""jsPsych, the library of behavioural experiments that the pages use: pinned packages, checked by their hashes.

None of it is part of this package. It comes from npm, from a folder, or in the rater's browser from a CDN.
"""

import base64
import hashlib
import hmac
import html
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

SOURCES = ("npm", "cdn")
_PATIENCE = 120  # seconds that npm may take


@dataclass(frozen=True)
class Package:
    """A package of npm, and those of its files that pages load.

    Attributes:
        name: Its name.
        version: Its version.
        integrity: The hash of the tarball, as npm and browsers write it.
        files: The hash of each file, by path inside the package.
    """

    name: str
    version: str
    integrity: str
    files: dict[str, str]


@cache
def pinned() -> tuple[Package, ...]:
    """The packages, jsPsych itself first."""
    return tuple(
        Package(p["name"], p["version"], p["integrity"], p["files"]) for p in _data()["packages"]
    )


def cdn_host() -> str:
    """Where pages of the source "cdn" load the library from."""
    return str(_data()["cdn"])


def _data() -> dict[str, Any]:
    return json.loads(resources.files("spade_xai.study").joinpath("jspsych.json").read_bytes())


def matches(data: bytes, integrity: str) -> bool:
    """Whether a file has a hash, such as sha384-..., of W3C's Subresource Integrity."""
    kind, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.new(kind, data).digest()).decode()
    return hmac.compare_digest(found, expected)


def library_files(source: str) -> dict[str, bytes]:
    """The files that a study carries, by path below its site; none for "cdn".

    Args:
        source: "npm" (through the program npm, with its registry and cache), "cdn", or a folder: with the packages
            as `npm pack` writes them (.tgz), or as `npm install` does (node_modules).

    Raises:
        OSError: npm is not installed, or has no access to its registry; or the folder lacks a package.
        ValueError: A file does not have its hash.
    """
    if source == "cdn":
        return {}
    if source != "npm":
        return _of_folder(Path(source))
    with tempfile.TemporaryDirectory() as folder:
        _pack(Path(folder))
        return _of_folder(Path(folder))


def tags(source: str) -> str:
    """The elements of a page's head that load the library, with the hashes that the browser checks."""
    lines = []
    for package in pinned():
        for path, integrity in package.files.items():
            # Browsers check no hashes of pages that are opened as files; copies were checked when the study was built.
            where, about = place(package, path), ""
            if source == "cdn":
                where = f"{cdn_host()}/{package.name}@{package.version}/{path}"
                about = f' integrity="{integrity}" crossorigin="anonymous"'
            if path.endswith(".css"):
                lines.append(f'<link rel="stylesheet" href="{html.escape(where)}"{about}>')
            else:
                lines.append(f'<script src="{html.escape(where)}"{about}></script>')
    return "\n".join(lines)


def place(package: Package, path: str) -> str:
    """Where a study's site has a file of a package."""
    return f"jspsych/{package.name.split('/')[-1]}-{package.version}/{PurePosixPath(path).name}"


def _pack(folder: Path) -> None:
    """Have npm write the tarballs into a folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError(
            "jsPsych is taken from npm, which is not installed: install it, or give --jspsych a folder with the "
            "packages, or --jspsych cdn"
        )
    wanted = [f"{package.name}@{package.version}" for package in pinned()]
    command = [npm, "pack", "--ignore-scripts", "--prefer-offline", "--silent", *wanted]
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"npm did not answer within {_PATIENCE} seconds") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "nothing").strip().splitlines()
        raise OSError(f"npm pack failed: {said[-1] if said else 'no message'}") from None


def _of_folder(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise OSError(f"--jspsych must be npm, cdn or a folder, got {folder}")
    found = {}
    for package in pinned():
        for path, data in _files_of(package, folder).items():
            if not matches(data, package.files[path]):
                raise ValueError(
                    f"{package.name}@{package.version}: {path} does not have the hash {package.files[path]}"
                )
            found[place(package, path)] = data
    return found


def _files_of(package: Package, folder: Path) -> dict[str, bytes]:
    tarball = folder / f"{package.name.lstrip('@').replace('/', '-')}-{package.version}.tgz"
    if tarball.is_file():
        data = tarball.read_bytes()
        if not matches(data, package.integrity):
            raise ValueError(f"{tarball} does not have the hash {package.integrity}")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {path: _member(archive, f"package/{path}", tarball) for path in package.files}
    for base in (folder, folder / "node_modules"):
        if (base / package.name).is_dir():
            return {path: (base / package.name / path).read_bytes() for path in package.files}
    raise OSError(f"{folder} must hold {tarball.name} or {quote(package.name, safe='@/')}")


def _member(archive: tarfile.TarFile, name: str, tarball: Path) -> bytes:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise ValueError(f"{tarball} must hold {name}")
    return file.read()
