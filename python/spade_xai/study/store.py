"""Raters and their answers in an SQLite file: an answer is on the disk before the rater's browser hears of it.

Kept of a rater: a random id, the hash of a random token, the list, and when tasks were handed out and answered.
"""

import hashlib
import hmac
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spade_xai.study.folder import Study

CHOICES = ("left", "right", "both", "neither")
MOST_MILLISECONDS = 24 * 3600 * 1000
ABANDONED = 3600  # seconds without an answer after which a rater no longer counts for a list
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (study TEXT NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS raters (
  rater TEXT PRIMARY KEY, token BLOB NOT NULL, list INTEGER NOT NULL, started REAL NOT NULL, seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
  rater TEXT NOT NULL REFERENCES raters (rater) ON DELETE CASCADE, position INTEGER NOT NULL, task TEXT NOT NULL,
  choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'both', 'neither')), milliseconds INTEGER NOT NULL,
  answered REAL NOT NULL, PRIMARY KEY (rater, position));
"""


@dataclass(frozen=True)
class Session:
    """A rater at work.

    Attributes:
        rater: The random id.
        list: The number of the list.
        position: The place of the next task; the number of answers.
    """

    rater: str
    list: int
    position: int


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came: the sides are those of the list's slot."""

    rater: str
    list: int
    position: int
    choice: str
    milliseconds: int


class OutOfTurn(ValueError):
    """An answer to a task that the rater is not at."""


class Store:
    """The answers of one study.

    Args:
        path: The SQLite file; made if it is not there.
        study: Whose answers they are.

    Raises:
        ValueError: The file holds the answers of another study.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self._study = study
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "busy_timeout = 5000",
        ):
            self._database.execute(f"PRAGMA {pragma}")  # fmt: skip
        self._database.executescript(_SCHEMA)
        with self._written():
            about = self._database.execute("SELECT study, version FROM about").fetchone()
            if about is None:
                about = (study.id, _VERSION)
                self._database.execute("INSERT INTO about VALUES (?, ?)", about)
        if about != (study.id, _VERSION):
            self._database.close()
            raise ValueError(
                f"{path} holds the answers of study {about[0]} (version {about[1]}), not of {study.id}"
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """One transaction, that no other one of any process comes between."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def start(self) -> tuple[Session, str]:
        """A new rater with the list that fewest are at work on or have finished, and the rater's token."""
        rater, token = secrets.token_hex(6), secrets.token_urlsafe(24)
        now = time.time()
        with self._written():
            used = dict(
                self._database.execute(
                    "SELECT list, COUNT(*) FROM raters r WHERE seen > ? OR "
                    "(SELECT COUNT(*) FROM answers a WHERE a.rater = r.rater) = ? GROUP BY list",
                    (now - ABANDONED, len(self._study.lists[0])),
                )
            )
            number = min(range(len(self._study.lists)), key=lambda k: (used.get(k, 0), k))
            self._database.execute(
                "INSERT INTO raters VALUES (?, ?, ?, ?, ?)",
                (rater, _hash(token), number, now, now),
            )
        return Session(rater, number, 0), token

    def session(self, token: str) -> Session | None:
        """The rater of a token; None for nobody's."""
        with self._lock:
            return self._session(token)

    def _session(self, token: str) -> Session | None:
        digest = _hash(token)
        row = self._database.execute(
            "SELECT rater, list, token FROM raters WHERE token = ?", (digest,)
        ).fetchone()
        if row is None or not hmac.compare_digest(row[2], digest):
            return None
        count = self._database.execute(
            "SELECT COUNT(*) FROM answers WHERE rater = ?", (row[0],)
        ).fetchone()[0]
        return Session(row[0], row[1], count)

    def answer(
        self, token: str, position: int, task: str, choice: str, milliseconds: int
    ) -> Session | None:
        """Keep an answer; one to a position that has an answer changes nothing.

        Args:
            token: The rater's.
            position: The place of the task in the rater's list.
            task: Its id.
            choice: One of CHOICES.
            milliseconds: From the task's appearance to the choice.

        Returns:
            The rater, at the next task; None for nobody's token.

        Raises:
            OutOfTurn: The rater is not at that task.
        """
        with self._written():
            session = self._session(token)
            if session is None:
                return None
            slots = self._study.lists[session.list]
            if not 0 <= position <= session.position or position >= len(slots):
                raise OutOfTurn(f"the next task is {session.position}, got {position}")
            if self._study.tasks[slots[position].task].id != task:
                raise OutOfTurn(f"task {position} of the list is another than {task!r}")
            if position < session.position:
                return session
            now = time.time()
            self._database.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (session.rater, position, task, choice, milliseconds, now),
            )
            self._database.execute(
                "UPDATE raters SET seen = ? WHERE rater = ?", (now, session.rater)
            )
        return Session(session.rater, session.list, position + 1)

    def delete(self, rater: str) -> int:
        """Delete a rater and all answers of that rater; give the number of raters deleted."""
        with self._written():
            found = self._database.execute("DELETE FROM raters WHERE rater = ?", (rater,)).rowcount
        with self._lock:  # nothing of it stays in the write-ahead log
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return found

    def answers(self) -> list[RawAnswer]:
        """All answers, by rater and position."""
        with self._lock:
            rows = self._database.execute(
                "SELECT a.rater, r.list, a.position, a.choice, a.milliseconds FROM answers a "
                "JOIN raters r ON r.rater = a.rater ORDER BY r.started, a.rater, a.position"
            ).fetchall()
        return [RawAnswer(*row) for row in rows]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
