"""jsPsych's packages: pinned, and refused where a byte of them is another."""

import base64
import hashlib
import io
import tarfile

import pytest

from spade_xai.study import packages
from spade_xai.study.packages import Package, library_files, matches, pinned, place, tags


def integrity(kind, data):
    return f"{kind}-{base64.b64encode(hashlib.new(kind, data).digest()).decode()}"


@pytest.fixture
def made_up(monkeypatch):
    """Two packages of known content in place of the pinned ones; their tarballs."""
    tarballs, found = {}, []
    for name in ("jspsych", "@jspsych/plugin-x"):
        content = f"// {name}".encode()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo("package/dist/index.js")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        data = buffer.getvalue()
        found.append(
            Package(
                name,
                "1.2.3",
                integrity("sha512", data),
                {"dist/index.js": integrity("sha384", content)},
            )
        )
        tarballs[f"{name.lstrip('@').replace('/', '-')}-1.2.3.tgz"] = data
    monkeypatch.setattr(packages, "pinned", lambda: tuple(found))
    return tarballs


def test_tarballs_as_npm_packs_them(made_up, tmp_path):
    for name, data in made_up.items():
        (tmp_path / name).write_bytes(data)
    assert library_files(str(tmp_path)) == {
        "jspsych/jspsych-1.2.3/index.js": b"// jspsych",
        "jspsych/plugin-x-1.2.3/index.js": b"// @jspsych/plugin-x",
    }
    name, data = next(iter(made_up.items()))
    (tmp_path / name).write_bytes(data[:-1] + b"x")
    with pytest.raises(ValueError, match=r"jspsych-1\.2\.3\.tgz does not have the hash sha512-"):
        library_files(str(tmp_path))


@pytest.mark.parametrize("base", [".", "node_modules"])
def test_installed_packages(made_up, tmp_path, base):
    for name in ("jspsych", "@jspsych/plugin-x"):
        file = tmp_path / base / name / "dist" / "index.js"
        file.parent.mkdir(parents=True)
        file.write_text(f"// {name}")
    assert len(library_files(str(tmp_path))) == 2
    file.write_text("// another")
    with pytest.raises(
        ValueError, match=r"plugin-x@1\.2\.3: dist/index\.js does not have the hash sha384-"
    ):
        library_files(str(tmp_path))


def test_what_is_missing_is_named(made_up, tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"must hold jspsych-1\.2\.3\.tgz or jspsych"):
        library_files(str(tmp_path))
    with pytest.raises(OSError, match="--jspsych must be npm, cdn or a folder"):
        library_files(str(tmp_path / "none"))
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="npm, which is not installed"):
        library_files("npm")


def test_npm_that_fails_says_why(made_up, tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(packages.shutil, "which", lambda name: str(npm))
    with pytest.raises(OSError, match="npm pack failed: npm error network"):
        library_files("npm")


def test_a_cdn_is_linked_with_integrity():
    assert library_files("cdn") == {}
    lines = tags("cdn").splitlines()
    assert len(lines) == sum(len(package.files) for package in pinned())
    for line in lines:
        assert 'integrity="sha384-' in line and 'crossorigin="anonymous"' in line
        assert "https://" in line and "@" in line


def test_pins_are_whole():
    assert pinned()[0].name == "jspsych"
    for package in pinned():
        assert len(base64.b64decode(package.integrity.removeprefix("sha512-"))) == 64
        for path, hashed in package.files.items():
            assert len(base64.b64decode(hashed.removeprefix("sha384-"))) == 48
            assert place(package, path) in tags("npm")


def test_pins_are_those_of_npm(jspsych):
    for package in pinned():
        for path, hashed in package.files.items():
            assert matches((jspsych / package.name / path).read_bytes(), hashed)
