"""Every reply ever paid for, in append-only JSON lines: what is never paid for twice, and never lost.

`<store>/<model>.jsonl` holds one reply a line under the hash of what was asked, and is only ever appended to. `<store>/index.sqlite` says
where each key stands; it is made from those files alone and may be deleted at any time. Several processes may share a folder. To join
stores of several machines, concatenate their files of the same name.
"""

import contextlib
import fcntl
import functools
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.config import Sampling
from datagen.files import UserError, canonical, sha256

INDEX_EVERY = 1000  # replies kept in memory until they are looked up through the index
THOUGHT = re.compile(r"^\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Request:
    model: str
    messages: tuple[tuple[str, str], ...]  # (role, content)
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    sample: int = 0  # the how-manieth reply to the same messages
    revision: str = ""  # hashed, not sent: tells models apart that are served under one name
    extra: str = ""  # further fields of the body, as JSON, such as response_format or top_k
    tag: object = None  # the caller's own mark, neither sent nor hashed

    @classmethod
    def of(cls, sampling: Sampling, model: str, messages: list[tuple[str, str]], seed: int | None, **more) -> "Request":
        return cls(model, tuple(messages), sampling.temperature, sampling.top_p, sampling.max_tokens, seed, **more)

    @functools.cached_property
    def key(self) -> str:
        """Of what the reply depends on: not the URL, key, time-out or concurrency; `max_tokens` is a floor, see `Store.get`."""
        more = [self.extra] if self.extra else []
        return sha256(canonical([self.model, self.messages, self.temperature, self.top_p, self.seed, self.sample, self.revision, *more]))

    def body(self) -> dict:
        """What goes over the wire. The seed differs between messages and samples: equal seeds would draw equal openings everywhere. It
        does not depend on the model, so a base and a tuned model answer with the same one."""
        body = {"model": self.model, "messages": [{"role": role, "content": content} for role, content in self.messages]}
        body |= {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        body |= json.loads(self.extra) if self.extra else {}
        return body if self.seed is None else body | {"seed": self.sent_seed}

    @functools.cached_property
    def sent_seed(self) -> int | None:
        return None if self.seed is None else int(sha256(canonical([self.messages, self.seed, self.sample]))[:8], 16) >> 1


@dataclass(frozen=True)
class Reply:
    text: str
    finish_reason: str  # stop, length, content_filter, tool_calls, or "failed" when no reply came
    usage: dict  # prompt_tokens and completion_tokens as the server counted them; empty where it did not
    error: str = ""
    batch: bool = False  # came through the Batch API, at half the price

    @property
    def thought(self) -> bool:
        return bool(THOUGHT.match(self.text))

    def spoken(self) -> "Reply":
        """Without a leading <think> block, which is kept in the store but is no part of an answer; one that never ends was cut off."""
        if not self.thought:
            return self
        said = THOUGHT.sub("", self.text, count=1).strip()
        return replace(self, text=said, finish_reason=self.finish_reason if said or "</think" in self.text else "length")


class Store:
    def __init__(self, folder: Path):
        self.folder, self.recent, self.files, self.ends = folder, {}, {}, {}
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from None
        except sqlite3.DatabaseError:  # not a database, or a broken one: it is made anew from the replies
            for path in folder.glob("index.sqlite*"):
                path.unlink()
            self._open()

    def _unusable(self, error: sqlite3.OperationalError) -> UserError:
        return UserError(f"{self.folder / 'index.sqlite'}: {error}. Nothing that was finished is lost; mend this and run the command again")

    def _open(self) -> None:
        self.index = sqlite3.connect(self.folder / "index.sqlite", timeout=60, isolation_level=None, check_same_thread=False)
        self.index.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
            "CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, indexed INTEGER, lines INTEGER);"
            "CREATE TABLE IF NOT EXISTS replies(key BLOB PRIMARY KEY, name TEXT, start INTEGER, length INTEGER, max_tokens INTEGER, finish TEXT) WITHOUT ROWID;"
        )
        self.catch_up()

    def __len__(self) -> int:
        self.catch_up()
        return self.index.execute("SELECT count(*) FROM replies").fetchone()[0]

    def close(self) -> None:
        if self.index:
            with contextlib.suppress(UserError):  # what is not indexed now will be when it is opened next
                self.catch_up()
            self.index.close()
            self.index = None
        for file in self.files.values():
            file.close()
        self.files.clear()

    def catch_up(self) -> None:
        """Indexes what was appended since the last time, by this process or another."""
        with self._transaction():
            known = {name: (indexed, lines) for name, indexed, lines in self.index.execute("SELECT * FROM files")}
            for path in sorted(self.folder.glob("*.jsonl")):
                start, number = known.get(path.name, (0, 0))
                if path.stat().st_size < start:  # replaced or cut by hand: what was known of it is void
                    self.index.execute("DELETE FROM replies WHERE name = ?", (path.name,))
                    start = number = 0
                if path.stat().st_size > start:
                    self._index(path, start, number)
        self.recent.clear()

    def _index(self, path: Path, start: int, number: int) -> None:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # nobody is in the middle of a line now: one without an end will never have one
            size = os.fstat(file.fileno()).st_size
            fcntl.flock(file, fcntl.LOCK_UN)
            file.seek(start)
            while start < size:
                line = file.readline(size - start)
                number += 1
                try:
                    row = json.loads(line) if line.strip() else None
                    if row:
                        found = (bytes.fromhex(row["key"]), path.name, start, len(line), row["request"]["max_tokens"], row["finish_reason"])
                        self.index.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)", found)
                except (ValueError, KeyError, TypeError):
                    print(f"{path}:{number}: half-written reply left aside (an interrupted run)", file=sys.stderr)
                start += len(line)
                number -= not line.endswith(b"\n")  # the end of that line is written before the next reply
        self.index.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (path.name, size, number))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self.index.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.index.execute("COMMIT")
            except BaseException:
                if self.index.in_transaction:
                    self.index.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:  # full or read-only disk
            raise self._unusable(error) from None

    def get(self, request: Request) -> Reply | None:
        """The reply to `request`, or None when it must be asked for: never asked, or cut off at fewer tokens than are wanted now."""
        key = request.key
        if key in self.recent:
            max_tokens, reply = self.recent[key]
        else:
            found = self.index.execute("SELECT name, start, length, max_tokens, finish FROM replies WHERE key = ?", (bytes.fromhex(key),)).fetchone()
            if not found:
                return None
            name, start, length, max_tokens, finish = found
            row = json.loads(os.pread(self._file(name).fileno(), length, start))
            reply = Reply(row["text"], finish, row["usage"], batch=row.get("batch", False))
        return None if reply.finish_reason == "length" and max_tokens < request.max_tokens else reply

    def _file(self, name: str):
        if name not in self.files:
            self.files[name] = open(self.folder / name, "a+b", buffering=0)  # noqa: SIM115 (closed in `close`)
            self.ends[name] = -1
        return self.files[name]

    def add(self, request: Request, reply: Reply, served_model: str) -> None:
        """Appends a reply. Raises OSError when the disk is full; what was written before stays whole."""
        row = {"key": request.key, "request": request.body() | {"sample": request.sample}, "text": reply.text}
        row |= {"finish_reason": reply.finish_reason, "usage": reply.usage, "served_model": served_model, "time": round(time.time(), 3)}
        row |= {"batch": True} if reply.batch else {}
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        name = "".join(c if c.isalnum() or c in "-._" else "_" for c in request.model) + ".jsonl"
        file = self._file(name)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            end = os.fstat(file.fileno()).st_size
            if end and end != self.ends[name] and os.pread(file.fileno(), 1, end - 1) != b"\n":
                line = b"\n" + line  # another process died in the middle of its line
            if file.write(line) != len(line):
                raise UserError(f"{self.folder / name}: the disk is full. What was finished is kept; make room and run the same command again")
            self.ends[name] = end + len(line)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
        self.recent[row["key"]] = (request.max_tokens, reply)
        if len(self.recent) >= INDEX_EVERY:
            self.catch_up()
