"""Paths and build information: python -m spade_ext --help tells which."""

import argparse
import json
from pathlib import Path

from spade_ext import __version__
from spade_ext._build import build_info, cmake_prefix_path, include_dir, library_path


def answer(chosen: argparse.Namespace) -> str:
    """Text for the one option that was chosen."""
    if chosen.cmake_dir:
        return cmake_prefix_path()
    if chosen.include_dir:
        return include_dir()
    if chosen.lib_dir:
        return str(Path(library_path()).parent)
    if chosen.library:
        return library_path()
    if chosen.pkg_config_dir:
        return str(Path(library_path()).parent / "pkgconfig")
    if chosen.version:
        return __version__
    return json.dumps(build_info(), indent=2)


def main(arguments: list[str] | None = None) -> None:
    """Print what one option asks for."""
    parser = argparse.ArgumentParser(prog="python -m spade_ext", description="Link libspade.")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--cmake-dir", action="store_true", help="for CMAKE_PREFIX_PATH")
    group.add_argument("--include-dir", action="store_true", help="directory of spade/spade.h")
    group.add_argument("--lib-dir", action="store_true", help="directory of the library")
    group.add_argument(
        "--library", action="store_true", help="the file to load, by ctypes or dlopen"
    )
    group.add_argument("--pkg-config-dir", action="store_true", help="for PKG_CONFIG_PATH")
    group.add_argument("--version", action="store_true", help="of the package")
    group.add_argument("--build-info", action="store_true", help="how it was built, as JSON")
    chosen = parser.parse_args(arguments)
    try:
        print(answer(chosen))
    except FileNotFoundError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
