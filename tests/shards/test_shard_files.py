"""A shard's file is read back whole, of its own run, or not at all."""

import pytest

from spade_xai.shards.file import is_shard, read_shard, write_shard
from spade_xai.shards.rows import SCORE, Rows


@pytest.fixture
def rows():
    rows = Rows()
    for k in range(40):
        rows.put(
            SCORE,
            k / 7,
            image=f"{k}.png",
            metric="auroc",
            method="lrp",
            map="SPADE",
            faithful=k > 3,
        )
    rows.put(SCORE, 0.5, image="é.png", metric="auroc", method="lrp", map="dense")
    return rows


def test_rows_come_back(tmp_path, rows):
    write_shard(tmp_path / "0.parquet", rows, "run")
    assert read_shard(tmp_path / "0.parquet", "run").to_pydict() == rows.columns()
    assert read_shard(tmp_path / "0.parquet", "another run") is None
    assert read_shard(tmp_path / "1.parquet", "run") is None
    assert [path.name for path in tmp_path.iterdir()] == ["0.parquet"]


def test_empty_shard(tmp_path):
    write_shard(tmp_path / "0.parquet", Rows(), "run")
    assert read_shard(tmp_path / "0.parquet", "run").num_rows == 0


def test_damage_is_seen(tmp_path, rows):
    """A changed byte makes the file unreadable, or changes nothing that is read."""
    path = tmp_path / "0.parquet"
    write_shard(path, rows, "run")
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = read_shard(path, "run")
        assert found is None or found.to_pydict() == rows.columns(), place
        refused += found is None
    assert refused > len(whole) // 7 // 4
    path.write_bytes(whole[:-9])
    assert not is_shard(path, "run")
