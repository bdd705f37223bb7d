"""A shard's file: rows in Parquet, whole or absent, with a digest, and the key of the run that made it."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from spade_ext.files import written_whole
from spade_xai.shards.rows import Rows

if TYPE_CHECKING:
    import pyarrow

FORMAT = "spade_xai.Shard.1"
_FORMAT, _RUN, _DIGEST = b"format", b"run", b"digest"


def write_shard(path: Path, rows: Rows, run: str) -> None:
    """Write rows, under the key of their run."""
    import pyarrow

    write_table(path, pyarrow.table(rows.columns(), _schema()), FORMAT, run)


def write_table(path: Path, table: "pyarrow.Table", format: str, run: str) -> None:
    """Write a table with its format, the key of its run, and a digest of all."""
    from pyarrow import parquet

    marks = {_FORMAT: format, _RUN: run, _DIGEST: _digest(table, format, run)}
    with written_whole(path) as part:
        parquet.write_table(table.replace_schema_metadata(marks), part, compression="zstd")


def read_shard(path: Path, run: str) -> "pyarrow.Table | None":
    """The rows of a file of that run; None if it is missing, damaged, or of another run."""
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, use_threads=False)
        digest = (table.schema.metadata or {}).get(_DIGEST, b"").decode()
        return table if digest == _digest(table, FORMAT, run) else None
    except (OSError, ValueError):  # pyarrow's errors are among them
        return None


def is_shard(path: Path, run: str) -> bool:
    """Whether `read_shard` gives rows."""
    return read_shard(path, run) is not None


def _digest(table: "pyarrow.Table", format: str, run: str) -> str:
    """SHA-256 of the names, types and values of a table, of its format and of its run."""
    types = [[field.name, str(field.type)] for field in table.schema]
    text = json.dumps([format, run, types, table.to_pydict()], default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _schema() -> "pyarrow.Schema":
    import pyarrow

    kinds = {"answer": pyarrow.int32(), "value": pyarrow.float64(), "faithful": pyarrow.bool_()}
    columns = [field.name for field in fields(Rows)]
    return pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
