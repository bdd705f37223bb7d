"""The checkpoint of a tuning run: what the run is, and every score as it came."""

import hashlib
import json
import os
from pathlib import Path

from spade_ext.files import is_signed, parse_json, signed, write_bytes
from spade_xai.models.forward_pass import same_outputs

_FORMAT = "spade_xai.Checkpoint.1"


class ScoreLog:
    """Scores by (group, ratio, sample), one JSON line each in a file that is only appended to.

    The first line says what the run is, with its format and a digest. Every other line ends in a check of itself and of
    the first line.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: dict[str, str]) -> None:
        """Begin a file, or go on with that of the same run.

        Raises:
            ValueError: The file is no checkpoint, is damaged or belongs to another run. It stays as it is.
        """
        self.path = None if path is None else Path(path)
        self.scores: dict[tuple[int, float, int], float] = {}
        if self.path is None:
            return
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if not lines:
            header = json.dumps(signed(_FORMAT, identity)).encode() + b"\n"
            write_bytes(self.path, header)
            self._header = header
            return
        self._header = lines[0]
        self._check_header(lines[0], identity)
        torn = lines.pop() if not lines[-1].endswith(b"\n") else b""  # by an interrupted write
        if torn and not torn.startswith(b"["):
            raise ValueError(f"tune: checkpoint {self.path} is damaged: it ends in {torn[:20]!r}")
        for number, line in enumerate(lines[1:], 2):
            self._read(line, number)
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(sum(map(len, lines)))

    def _check_header(self, line: bytes, identity: dict[str, str]) -> None:
        try:
            saved = parse_json(line) if line.endswith(b"\n") else None
        except ValueError:
            saved = None
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise ValueError(
                f"tune: checkpoint {self.path} is no checkpoint of this version, so it is not written over: "
                "give another name"
            )
        if not is_signed(saved):
            raise ValueError(f"tune: checkpoint {self.path} is damaged: its first line has changed")
        for name, value in identity.items():
            held = saved.get(name)
            if held == value or name == "inputs":  # the latter repeats the others
                continue
            if name == "forward" and same_outputs(parse_json(str(held)), parse_json(value)):
                continue
            what = "the outputs for the first sample differ" if name == "forward" else ""
            raise ValueError(
                f"tune: checkpoint {self.path} must belong to this run, {name} differs: "
                + (what or f"{held} in the file, {value} here")
            )

    def _read(self, line: bytes, number: int) -> None:
        try:
            group, ratio, sample, score, check = parse_json(line)
            row = [int(group), float(ratio), int(sample), float(score)]
            if [*row, check] != [*row, self._check(row)] or self._line(row) != line:
                raise ValueError("it has changed")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"tune: checkpoint {self.path} is damaged in line {number}: {error}"
            ) from None
        self.scores[int(group), float(ratio), int(sample)] = float(score)

    def _check(self, row: list[float]) -> str:
        text = self._header + json.dumps(row).encode()
        return hashlib.blake2b(text, digest_size=6).hexdigest()

    def _line(self, row: list[float]) -> bytes:
        return json.dumps([*row, self._check(row)]).encode() + b"\n"

    def add(self, group: int, ratio: float, sample: int, score: float) -> None:
        """Note a score, on the disk before this returns."""
        self.scores[group, ratio, sample] = score
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(self._line([group, ratio, sample, score]))
                file.flush()
                os.fsync(file.fileno())
