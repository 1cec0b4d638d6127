"""Keeps the votes of a study: who may vote on what, each vote exactly once, and the export. Knows nothing of any page; `eval.vote` shows it.

    python -m eval.votes out/votes/NAME                          # how many votes and raters there are
    python -m eval.votes out/votes/NAME --export votes.jsonl     # or .parquet, or without an ending both; also while the page runs
    python -m eval.votes out/votes/NAME --push org/name --dry-run   # the votes as a data set for others (eval.voteset); without --dry-run it is pushed
    python -m eval.votes out/votes/NAME --withdraw CODE          # when no page runs: takes back the votes of the rater with that code
    python -m eval.votes out/votes/NAME --erase                  # when no page runs: deletes withdrawn votes and answers for good

A folder `out/votes/<study>/` holds the frozen `items.jsonl` and, written here:

  events-<uuid>.jsonl   the truth: one event a line, a new file each time the store is opened. A vote is on disk (fsync) before it is confirmed.
  votes.db              an index of it (SQLite, WAL): made anew from all events at every start, so it may be deleted; its constraints refuse double votes.
  .lock                 held while a store is open: one process at a time.

The state is a function of the set of events, whatever the order of their files, and each event counts once however often it is read, so files may be
copied, joined or fetched from elsewhere. A line cut off at the end of a file (the process was killed while it wrote) was never confirmed and is skipped.

One connection is shared by all threads behind one lock. A connection per thread ends in `database is locked` under load, since SQLite's wait is not fair,
and SQLite before 3.51.3 can damage a WAL database that two connections checkpoint at once.

No event holds an address, a browser's name or an invite; a rater is a random number. Exports hold hashes of the random numbers, and days instead of times.
"""

import argparse
import contextlib
import fcntl
import hashlib
import hmac
import json
import math
import os
import random
import secrets
import sqlite3
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from datagen.files import UserError, atomic, entry, read_jsonl, sha256, write_jsonl

if TYPE_CHECKING:
    from eval.studyfile import Study

SCHEMA = """
CREATE TABLE item(
  item TEXT PRIMARY KEY, question_id TEXT NOT NULL, pair TEXT NOT NULL, kind TEXT NOT NULL CHECK(kind IN ('main', 'gold')),
  expected TEXT CHECK(expected IN ('a', 'b')), n INTEGER NOT NULL DEFAULT 0, n_left_a INTEGER NOT NULL DEFAULT 0);  -- n: votes and reservations
CREATE TABLE rater(
  rater TEXT PRIMARY KEY, invite TEXT UNIQUE, code TEXT NOT NULL UNIQUE, consent TEXT NOT NULL, joined_at REAL NOT NULL,
  answers TEXT, admitted INTEGER NOT NULL DEFAULT 0, quiz_tries INTEGER NOT NULL DEFAULT 0, quiz_passed INTEGER, withdrawn_at REAL);
CREATE TABLE assignment(
  token TEXT PRIMARY KEY, rater TEXT NOT NULL REFERENCES rater, item TEXT NOT NULL REFERENCES item, question_id TEXT NOT NULL, pair TEXT NOT NULL,
  kind TEXT NOT NULL CHECK(kind IN ('main', 'gold', 'repeat')), position INTEGER NOT NULL, left_is TEXT NOT NULL CHECK(left_is IN ('a', 'b')),
  source TEXT REFERENCES assignment, served_at REAL NOT NULL, expires_at REAL NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('open', 'voted', 'expired', 'withdrawn')), CHECK((kind = 'repeat') = (source IS NOT NULL)));
CREATE UNIQUE INDEX one_open ON assignment(rater) WHERE state = 'open';
CREATE UNIQUE INDEX a_question_once ON assignment(rater, question_id) WHERE kind != 'repeat' AND state != 'expired';
CREATE UNIQUE INDEX a_repeat_once ON assignment(source) WHERE state != 'expired';
CREATE UNIQUE INDEX a_position_once ON assignment(rater, position) WHERE state != 'expired';
CREATE INDEX of_item ON assignment(item, state);
CREATE TABLE vote(
  token TEXT PRIMARY KEY REFERENCES assignment, rater TEXT NOT NULL, question_id TEXT NOT NULL, kind TEXT NOT NULL,
  choice NOT NULL CHECK(choice IN ('left', 'right', 'tie', -2, -1, 0, 1, 2)), chosen TEXT CHECK(chosen IN ('a', 'b')), seconds_server REAL NOT NULL,
  seconds_client REAL, layout TEXT CHECK(layout IN ('row', 'stack')), input TEXT CHECK(input IN ('key', 'mouse', 'touch')), received_at REAL NOT NULL);
CREATE UNIQUE INDEX a_vote_once ON vote(rater, question_id) WHERE kind != 'repeat';
"""
TABLES = ("vote", "assignment", "rater", "item")  # in the order in which they can be emptied
QUIZ_TRIES = 2
SAID_BY_RATERS = ("vote", "answers", "quiz", "said", "replied")  # events that `erase` deletes for those who withdrew; the last two are those of eval.collect
# Most calls a minute, kept in memory only. A class behind one address has to get in at once; 20 wrong passwords a minute find none.
LIMITS = {"rater": 240, "invite": 30, "address": 300, "wrong": 20, "said": 15}
INPUTS, LAYOUTS = ("key", "mouse", "touch"), ("row", "stack")


class Refused(Exception):
    """What the rater may not do; the text is for the rater."""


@dataclass(frozen=True)
class Ballot:
    """What a rater sees, and all that a page may know of it: no item, no kind, no side."""

    token: str
    question: str
    left: str
    right: str
    position: int  # 1 for the first
    total: int  # ballots of this rater, as far as can be said now


# ---------------------------------------------------------------- events


def read_events(folder: Path) -> list[dict]:
    """All events of a folder, in the order of their files' first times. The cut-off last line of a file is skipped; a broken line elsewhere raises UserError."""
    files = []
    for path in sorted(folder.glob("events-*.jsonl")):
        *lines, _ = path.read_bytes().split(b"\n")  # what follows the last line end is no whole line
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
                rows[-1]["t"], rows[-1]["type"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: not an event; the file was damaged: restore it from a copy, no vote can be counted without it") from None
        if rows:
            files.append(rows)
    return [event for rows in sorted(files, key=lambda rows: rows[0]["t"]) for event in rows]


class Log:
    """Appends events to a new file. What was not wholly written is cut off again, so a full disk does not spoil what follows."""

    def __init__(self, folder: Path):
        self.path = folder / f"events-{uuid.uuid4()}.jsonl"
        self.fd: int | None = None  # made with the first event: opening a store for a look leaves no file behind

    def append(self, event: dict, sync: bool) -> Callable[[], None]:
        """Writes a line, and with `sync` has it on disk on return, with all lines before it. Returns what takes it back. Raises OSError."""
        if self.fd is None:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            folder = os.open(self.path.parent, os.O_RDONLY)  # the file's name, too, has to be on disk
            os.fsync(folder)
            os.close(folder)
        size, fd = os.fstat(self.fd).st_size, self.fd

        def undo() -> None:
            os.ftruncate(fd, size)
            os.fsync(fd)

        data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            while data:
                data = data[os.write(fd, data) :]
            if sync:
                os.fsync(fd)
        except OSError:
            undo()
            raise
        return undo

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


# ---------------------------------------------------------------- database


def chosen(choice: str | int, left_is: str) -> str | None:
    """ "a", "b", or None for a tie. A choice is left, right, tie, or of five points -2 (left, clearly) to 2 (right, clearly)."""
    side = {"left": -1, "tie": 0, "right": 1}.get(choice, choice)
    return None if side == 0 else left_is if side < 0 else {"a": "b", "b": "a"}[left_is]


def insert(db: sqlite3.Connection, table: str, **values: object) -> None:
    db.execute(f"INSERT INTO {table}({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", list(values.values()))


def insert_items(db: sqlite3.Connection, items: list[dict]) -> None:
    for item in items:
        insert(db, "item", item=item["item"], question_id=item["question_id"], pair=item["pair"], kind=kind_of(item), expected=item["expected"])


def kind_of(item: dict) -> str:
    """Only a gold item is special before it is served; any main item can be the source of a repeat."""
    return "gold" if item["kind"] == "gold" else "main"


def recount(db: sqlite3.Connection, item: str) -> None:
    """Votes and reservations of an item, and those of them with side a on the left."""
    db.execute(
        "UPDATE item SET (n, n_left_a) = (SELECT count(*), coalesce(sum(left_is = 'a'), 0) FROM assignment"
        " WHERE assignment.item = item.item AND kind != 'repeat' AND state IN ('open', 'voted')) WHERE item = ?",
        [item],
    )


def load(db: sqlite3.Connection, items: list[dict], events: list[dict], now: float) -> None:
    """Fills empty tables from events. Takes them kind by kind, so the order of their files does not matter; of several of one name the first counts.

    An assignment is voted if there is its vote; else open if it is the rater's latest and its time is not over; else expired. Two pages of one study, such as a
    Space and the one that takes its place, may both have shown a rater the same question, or two at one position: the vote that came first counts, and the
    later position is the next free one. Raises UserError for an item that is not in `items`.
    """
    of = defaultdict(dict)
    for event in sorted(events, key=lambda event: event["t"]):
        name = event.get("token") or event.get("rater")
        if event["type"] == "quiz":  # tries are numbered
            name = (name, event["tries"])
        of[event["type"]].setdefault(name, event)
    known = {item["item"] for item in items}
    if lost := next((event["item"] for event in of["served"].values() if event["item"] not in known), None):
        raise UserError(f"items.jsonl has no item {lost!r}, which was voted on or shown: restore the file that the study began with")
    insert_items(db, items)
    for rater, event in of["rater"].items():
        insert(db, "rater", rater=rater, invite=event["invite"], code=event["code"], consent=event["consent"], joined_at=event["t"])
    for rater, event in of["answers"].items():
        db.execute("UPDATE rater SET answers = ?, admitted = ? WHERE rater = ?", [json.dumps(event["answers"], ensure_ascii=False), event["admitted"], rater])
    for (rater, tries), event in of["quiz"].items():
        db.execute("UPDATE rater SET quiz_tries = max(quiz_tries, ?), quiz_passed = max(coalesce(quiz_passed, 0), ?) WHERE rater = ?", [tries, event["passed"], rater])
    latest = {event["rater"]: token for token, event in of["served"].items()}
    if lost := next((token for token in of["vote"] if token not in of["served"]), None):
        raise UserError(f"a vote has no ballot ({lost}): a file events-*.jsonl is missing here; put it back, no vote can be counted without it")
    judged, counted, places = set(), set(), defaultdict(set)
    for token in sorted(of["vote"], key=lambda token: of["served"][token]["kind"] == "repeat"):  # by time, and repeats after what they repeat
        served = of["served"][token]
        if once(served) not in judged and (served["source"] is None or served["source"] in counted):
            judged.add(once(served))
            counted.add(token)
    for token, event in of["served"].items():
        free = once(event) not in judged and (event["source"] is None or event["source"] in counted)
        state = "voted" if token in counted else "open" if free and latest[event["rater"]] == token and event["expires_at"] > now else "expired"
        if state != "expired":
            taken = places[event["rater"]]
            event = event | {"position": event["position"] if event["position"] not in taken else max(taken) + 1}
            taken.add(event["position"])
        columns = ("rater", "item", "question_id", "pair", "kind", "position", "left_is", "source", "expires_at")
        insert(db, "assignment", token=token, served_at=event["t"], state=state, **{key: event[key] for key in columns})
    for token in counted:
        event = of["vote"][token]
        columns = ("rater", "question_id", "kind", "choice", "chosen", "seconds_server", "seconds_client", "layout", "input")
        insert(db, "vote", token=token, received_at=event["t"], **{key: event[key] for key in columns})
    for rater, event in of["withdrawn"].items():
        withdraw(db, rater, event["t"])
    for item in {event["item"] for event in of["served"].values()}:
        recount(db, item)


def once(served: dict) -> tuple:
    """What a rater judges once: a question, and a repeat of an earlier vote."""
    return (served["rater"], "repeat", served["source"]) if served["kind"] == "repeat" else (served["rater"], "question", served["question_id"])


def withdraw(db: sqlite3.Connection, rater: str, now: float) -> None:
    db.execute("UPDATE rater SET withdrawn_at = ? WHERE rater = ?", [now, rater])
    db.execute("UPDATE assignment SET state = CASE state WHEN 'voted' THEN 'withdrawn' ELSE 'expired' END WHERE rater = ?", [rater])


def connect(path: Path | str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes from the database, the events give back
    return db


# ---------------------------------------------------------------- the store


class Store:
    """The one open store of a study; all methods may be called from any thread. Raises UserError where another process has it open or the files disagree."""

    def __init__(self, folder: Path, study: "Study", clock: Callable[[], float] = time.time, rng: random.Random | None = None):
        self.folder, self.study, self.clock, self.rng = folder, study, clock, rng or random.SystemRandom()
        items = read_jsonl(folder / "items.jsonl", "the frozen items of a study")
        self.items = {item["item"]: item for item in items}
        main = sorted((item["item"] for item in items if kind_of(item) == "main"), key=lambda item: sha256(f"{study.seed}:common:{item}"))
        self.common = set(main[: math.ceil(study.common * len(main))])
        self.n_main = len(main)
        self.lock, self.calls, self.paused = threading.RLock(), defaultdict(deque), False
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(folder))
            self.db = self._open(items)
            self._recall()
            self.held = stack.pop_all()
        self.log = Log(folder)

    def _open(self, items: list[dict]) -> sqlite3.Connection:
        path, events = self.folder / "votes.db", read_events(self.folder)
        self.paused = next((event["paused"] for event in sorted(events, key=lambda event: -event["t"]) if event["type"] == "pause"), False)
        try:
            db = connect(path)
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                lost = {row["token"] for row in db.execute("SELECT token FROM vote")} - {event["token"] for event in events if event["type"] == "vote"}
                if lost:
                    db.close()
                    raise UserError(f"{path}: holds {len(lost)} vote(s) that no events-*.jsonl beside it has; put those files back, or delete the database to lose them")
            else:
                db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: {error}; delete it, it is made anew from the events") from None
        db.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            db.execute(f"DELETE FROM {table}")
        load(db, items, events, self.clock())
        db.execute("COMMIT")
        return db

    def close(self) -> None:
        with self.lock:
            self.log.close()
            self.db.close()
            self.held.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[Callable[..., None]]:
        """One change under the lock: what the block does to the database is checked by its constraints, then its event is written, then committed. All or nothing."""
        with self.lock:
            undo: list[Callable[[], None]] = []

            def event(type: str, now: float, sync: bool = True, **values: object) -> None:
                undo.append(self.log.append({"type": type, "t": now} | values, sync))

            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield event
                self.db.execute("COMMIT")
            except BaseException:
                if undo:
                    undo[0]()
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                self._recall()
                raise

    def _recall(self) -> None:
        self.counts = {row["item"]: (row["n"], row["n_left_a"]) for row in self.db.execute("SELECT item, n, n_left_a FROM item")}

    def _one(self, sql: str, *values: object) -> sqlite3.Row | None:
        return self.db.execute(sql, values).fetchone()

    def _rater(self, rater: str | None) -> sqlite3.Row | None:
        return self._one("SELECT * FROM rater WHERE rater = ?", rater) if isinstance(rater, str) else None

    def limit(self, kind: str, name: str) -> None:
        """Raises Refused when `name` has called more often in the last minute than LIMITS allows its kind."""
        with self.lock:
            now, calls = time.monotonic(), self.calls[kind, name]
            while calls and calls[0] < now - 60:
                calls.popleft()
            if len(calls) >= LIMITS[kind]:
                raise Refused("Too many requests. Please wait a minute.")
            calls.append(now)
            if len(self.calls) > 10_000:
                self.calls = defaultdict(deque, {key: times for key, times in self.calls.items() if times and times[-1] >= now - 60})

    # ------------------------------------------------------------ coming in

    def join(self, address: str = "", password: str = "", invite: str = "") -> str:
        """The id of a rater who has agreed to the consent text: new, or of that invite, which belongs to one person on any device.

        Where the environment names a password (study.password_env), it or an invite is needed. Raises Refused.
        """
        self.limit("address", address)
        wanted = os.environ.get(self.study.password_env or "", "")
        hashed = None
        if invite:
            if not self.invited(invite):
                self.limit("wrong", address)
                raise Refused("This invite link is not valid. Please check that it was copied whole.")
            hashed = sha256(f"{self.folder.name}:{invite}")
            self.limit("invite", hashed)
        elif wanted and not hmac.compare_digest(password.encode(), wanted.encode()):
            self.limit("wrong", address)
            raise Refused("The password is not right.")
        with self._change() as event:
            if hashed and (known := self._one("SELECT rater FROM rater WHERE invite = ?", hashed)):
                return known["rater"]
            rater, now = secrets.token_hex(16), self.clock()
            values = {"rater": rater, "invite": hashed, "code": withdrawal_code(rater), "consent": sha256(self.study.consent)}
            insert(self.db, "rater", joined_at=now, **values)
            event("rater", now, **values)
        return rater

    def invited(self, invite: str) -> bool:
        """Whether an invite is one of `invites`. Without the admin token in the environment there are none."""
        name, _, signature = invite.partition(".")
        key = os.environ.get(self.study.admin_env, "")
        return bool(key) and hmac.compare_digest(sign(key, self.folder.name, name).encode(), signature.encode())

    def stage(self, rater: str | None) -> str:
        """What the rater does next: consent, questions, ended (by the questionnaire, or no more raters like this are needed), quiz, failed, withdrawn, paused, vote."""
        with self.lock:
            row = self._rater(rater)
            if row is None:
                return "consent"
            if row["withdrawn_at"] is not None:
                return "withdrawn"
            if row["answers"] is None and self.study.questionnaire:
                return "questions"
            if row["answers"] is not None and not row["admitted"]:
                return "ended"
            if self.study.quiz and not row["quiz_passed"]:
                return "quiz" if row["quiz_tries"] < QUIZ_TRIES else "failed"
            return "paused" if self.paused else "vote"

    def answer(self, rater: str, answers: dict[str, str]) -> str:
        """Keeps the questionnaire, once; returns the next stage. Of a rater with whom it ends the session, only that it did. Raises Refused where an answer is
        missing or none of the options."""
        for question in self.study.questionnaire:
            if answers.get(question.key) not in question.options:
                raise Refused("Please answer every question.")
        with self._change() as event:
            if self.stage(rater) == "questions":
                answers = {question.key: answers[question.key] for question in self.study.questionnaire}
                now, admitted = self.clock(), not any(self._full(key, answers[key]) for key in self.study.quotas)
                if any(answers[question.key] in question.ends for question in self.study.questionnaire):
                    answers, admitted = {}, False
                self.db.execute("UPDATE rater SET answers = ?, admitted = ? WHERE rater = ?", [json.dumps(answers, ensure_ascii=False), admitted, rater])
                event("answers", now, rater=rater, answers=answers, admitted=admitted)
        return self.stage(rater)

    def _full(self, key: str, option: str) -> bool:
        """Whether raters with this answer have, or are about to have, their share of the planned votes."""
        share = self.study.quotas[key].get(option)
        if share is None:
            return False
        active, taken = self.clock() - 60 * self.study.reserve_minutes, 0
        for row in self.db.execute(
            "SELECT answers, joined_at, (SELECT count(*) FROM vote WHERE vote.rater = rater.rater AND kind = 'main') AS n,"
            " (SELECT max(served_at) FROM assignment WHERE assignment.rater = rater.rater) AS served_at FROM rater"
            " WHERE admitted AND withdrawn_at IS NULL AND NOT (quiz_passed IS 0 AND quiz_tries >= ?)",
            [QUIZ_TRIES],
        ):
            if json.loads(row["answers"]).get(key) == option:
                taken += max(row["n"], self.study.per_rater if (row["served_at"] or row["joined_at"]) > active else 0)
        return taken >= share * self.study.votes_per_item * self.n_main

    def quiz(self, rater: str, answers: list[str]) -> bool:
        """Whether the quiz is passed: all right, in one of QUIZ_TRIES tries. Both are kept."""
        right = [str(answer) for answer in answers] == [str(question.answer) for question in self.study.quiz]
        with self._change() as event:
            if self.stage(rater) == "quiz":
                tries = self._rater(rater)["quiz_tries"] + 1
                self.db.execute("UPDATE rater SET quiz_tries = ?, quiz_passed = ? WHERE rater = ?", [tries, right, rater])
                event("quiz", self.clock(), rater=rater, tries=tries, passed=right)
        return self.stage(rater) not in ("quiz", "failed")

    # ------------------------------------------------------------ ballots

    def next(self, rater: str) -> Ballot | None:
        """The rater's open ballot, or a new one; None when there is nothing for this rater. Raises Refused."""
        self.limit("rater", rater)
        with self._change() as event:
            if self.stage(rater) != "vote":
                return None
            now = self.clock()
            for row in self.db.execute("SELECT token, item FROM assignment WHERE state = 'open' AND expires_at <= ?", [now]).fetchall():
                self._expire(row["token"], row["item"])
            opened = self._one("SELECT * FROM assignment WHERE rater = ? AND state = 'open'", rater)
            drawn, left_to_do = self._draw(rater, opened)
            if opened or drawn is None:
                return drawn and self._ballot(drawn, left_to_do)
            token, expires = secrets.token_hex(16), now + 60 * self.study.reserve_minutes
            values = {"token": token, "rater": rater, "expires_at": expires} | drawn
            insert(self.db, "assignment", served_at=now, state="open", **values)
            self._recount(drawn["item"])
            # no wait for the disk: should a power cut take it, its vote was not confirmed either, since that waits for all before it
            event("served", now, sync=False, **values)
            return self._ballot(values, left_to_do)

    def _expire(self, token: str, item: str) -> None:
        self.db.execute("UPDATE assignment SET state = 'expired' WHERE token = ?", [token])
        self._recount(item)

    def _recount(self, item: str) -> None:
        """As recount, and in memory, where items are drawn from: reading 1,500 rows from the database took most of the time of a vote."""
        recount(self.db, item)
        self.counts[item] = tuple(self._one("SELECT n, n_left_a FROM item WHERE item = ?", item))

    def _ballot(self, row: dict, left_to_do: int) -> Ballot:
        item = self.items[row["item"]]
        texts = {"a": item["text_a"], "b": item["text_b"]}
        left, right = (texts[side] for side in ("ab" if row["left_is"] == "a" else "ba"))
        return Ballot(row["token"], item["question"], left, right, row["position"], row["position"] - 1 + left_to_do)

    def _eligible(self, kind: str, seen: set[str]) -> list[dict]:
        """Items of questions that are not among those `seen`; main ones that still need votes."""
        return [
            item
            for item in self.items.values()
            if kind_of(item) == kind and item["question_id"] not in seen and (kind == "gold" or self.counts[item["item"]][0] < self.study.votes_per_item)
        ]

    def _kinds(self, rater: str, voted: list[sqlite3.Row], main: list[dict], gold: list[dict]) -> list[str]:
        """Kinds of the rater's next ballots, given what was voted on and what is eligible: at most `per_rater` main ones. To every `gold_every` of them comes a
        gold one, at a place that differs from rater to rater; repeats come evenly in the second half, or when there are no more main ones."""
        study, n, kinds = self.study, Counter(row["kind"] for row in voted), []
        most = min(study.per_rater, n["main"] + len({item["question_id"] for item in main}))
        golds = min(study.per_rater // study.gold_every, n["gold"] + len({item["question_id"] for item in gold}))
        while True:
            place = int(sha256(f"{rater}:{n['gold']}")[:8], 16) % study.gold_every
            if n["gold"] < golds and n["main"] > n["gold"] * study.gold_every + place:
                kind = "gold"
            elif n["repeat"] < min(study.repeats, n["main"]) and (
                n["main"] >= most or n["main"] >= study.per_rater // 2 + (n["repeat"] + 1) * study.per_rater // (2 * (study.repeats + 1))
            ):
                kind = "repeat"
            elif n["main"] < most:
                kind = "main"
            else:
                return kinds
            n[kind] += 1
            kinds.append(kind)

    def _draw(self, rater: str, opened: sqlite3.Row | None) -> tuple[dict | None, int]:
        """(the rater's next assignment less token and times, or the one that is open; ballots that are left with it)."""
        voted = self.db.execute("SELECT * FROM assignment WHERE rater = ? AND state = 'voted' ORDER BY position", [rater]).fetchall()
        seen = {row["question_id"] for row in voted}
        eligible = {kind: self._eligible(kind, seen) for kind in ("main", "gold")}
        if opened and opened["kind"] == "main":
            eligible["main"].append(self.items[opened["item"]])
        kinds = self._kinds(rater, voted, eligible["main"], eligible["gold"])
        if opened:
            return dict(opened), max(1, len(kinds))
        if not kinds:
            return None, 0
        kind, position = kinds[0], len(voted) + 1
        if kind == "repeat":
            repeated = {row["source"] for row in voted}
            sources = [row for row in voted if row["kind"] == "main" and row["token"] not in repeated]
            source = self.rng.choice(sources[: max(1, len(sources) // 2)])  # of the first half: long enough ago
            item, left_is, token = source, {"a": "b", "b": "a"}[source["left_is"]], source["token"]
        else:
            mine = [row for row in voted if row["kind"] != "repeat"]
            item, token = self._pick(eligible[kind], [row for row in mine if row["kind"] == kind]), None
            n, n_left_a = self.counts[item["item"]]
            lean = 2 * n_left_a - n or 2 * sum(row["left_is"] == "a" for row in mine) - len(mine)  # of the item, else of the rater
            left_is = "b" if lean > 0 else "a" if lean < 0 else self.rng.choice("ab")
        values = {key: item[key] for key in ("item", "question_id", "pair")}
        return values | {"kind": kind, "position": position, "left_is": left_is, "source": token}, len(kinds)

    def _pick(self, items: list[dict], mine: list[sqlite3.Row]) -> dict:
        """The item with the fewest votes and reservations, then of the pair that the rater has seen least, then by lot.

        Items of the common subset are finished one after another instead, so that several raters overlap on them from the start; they make up
        `study.common` of each rater's main ballots.
        """
        common = [item for item in items if item["item"] in self.common]
        others = [item for item in items if item["item"] not in self.common]
        pairs, sign = Counter(row["pair"] for row in mine), 1
        if common and (not others or sum(row["item"] in self.common for row in mine) < self.study.common * (len(mine) + 1)):
            others, sign = common, -1
        keys = [(sign * self.counts[item["item"]][0], pairs[item["pair"]]) for item in others]
        least = min(keys)
        return self.rng.choice([item for item, key in zip(others, keys, strict=True) if key == least])

    def cast(
        self, rater: str, token: str, choice: str | int, seconds: float | None = None, layout: str | None = None, input: str | None = None, details: dict | None = None
    ) -> str:
        """Counts a vote: ok, duplicate, expired, unknown (no such ballot of this rater) or too_fast. After `ok` it is on disk.

        seconds, layout (row, stack) and input (key, mouse, touch) are what the browser says of it; what it cannot be is kept as None. details: what else a study
        asks, checked by its caller; it stands in the event alone. Raises ValueError for a choice that the study does not have, and Refused.
        """
        if choice not in choices(self.study):
            raise ValueError(f"{choice!r} is no choice of this study")
        self.limit("rater", rater)
        with self._change() as event:
            now, row = self.clock(), self._one("SELECT * FROM assignment WHERE token = ?", token)
            if row is None or row["rater"] != rater or row["state"] == "withdrawn":
                return "unknown"
            if row["state"] == "voted":
                return "duplicate"
            if row["state"] == "expired" or row["expires_at"] <= now:
                self._expire(token, row["item"])
                return "expired"
            waited = now - row["served_at"]
            if waited < self.study.minimum_seconds:
                return "too_fast"
            values = {"token": token, "rater": rater, "question_id": row["question_id"], "kind": row["kind"], "choice": choice, "chosen": chosen(choice, row["left_is"])}
            values["seconds_server"] = round(waited, 3)
            values["seconds_client"] = round(float(seconds), 3) if isinstance(seconds, int | float) and 0 <= seconds < 86_400 else None
            values |= {"layout": layout if layout in LAYOUTS else None, "input": input if input in INPUTS else None}
            insert(self.db, "vote", received_at=now, **values)
            self.db.execute("UPDATE assignment SET state = 'voted' WHERE token = ?", [token])
            event("vote", now, **values, **({"details": details} if details else {}))
        return "ok"

    # ------------------------------------------------------------ going out, and the organiser

    def code(self, rater: str) -> str | None:
        """The rater's withdrawal code."""
        with self.lock:
            row = self._rater(rater)
            return row["code"] if row else None

    def withdraw(self, code: str, address: str = "") -> bool:
        """Takes back all votes of the rater with this code; their items become free again. Whether there is such a rater. Raises Refused."""
        self.limit("wrong", address)
        with self._change() as event:
            row = self._one("SELECT rater, withdrawn_at FROM rater WHERE code = ?", plain(code))
            if row and row["withdrawn_at"] is None:
                now = self.clock()
                withdraw(self.db, row["rater"], now)
                for item in self.db.execute("SELECT DISTINCT item FROM assignment WHERE rater = ?", [row["rater"]]).fetchall():
                    self._recount(item["item"])
                event("withdrawn", now, rater=row["rater"])
        return row is not None

    def organise(self, token: str, action: str, address: str = "") -> dict:
        """status, pause or resume; returns the counts. No results: to see them while votes come in biases. Raises Refused without the token of study.admin_env."""
        wanted = os.environ.get(self.study.admin_env, "")
        if not wanted or not hmac.compare_digest(token.encode(), wanted.encode()):
            self.limit("wrong", address)
            raise Refused("The token is not right." if wanted else f"There is no organiser's token: {self.study.admin_env} is not set.")
        if action not in ("status", "pause", "resume"):
            raise ValueError(action)
        if action != "status":
            with self._change() as event:
                event("pause", self.clock(), paused=action == "pause")
            self.paused = action == "pause"
        with self.lock:
            return counts(self.db) | {"votes wanted": self.n_main * self.study.votes_per_item, "paused": self.paused}


def choices(study: "Study") -> list[str | int]:
    """What can be chosen, from left to right."""
    every = [-2, -1, 0, 1, 2] if study.scale == "five" else ["left", "tie", "right"]
    return every if study.ties else [choice for choice in every if choice not in (0, "tie")]


def withdrawal_code(rater: str) -> str:
    """Sixteen hexadecimal digits: of no use to find the rater's id."""
    return hashlib.sha256(f"withdraw:{rater}".encode()).hexdigest()[:16]


def plain(code: str) -> str:
    return "".join(c for c in str(code).lower() if c in "0123456789abcdef")


def sign(key: str, study: str, name: str) -> str:
    return hmac.new(key.encode(), f"{study}:{name}".encode(), hashlib.sha256).hexdigest()[:32]


def invites(folder: Path, study: "Study", n: int) -> list[str]:
    """n new invites: random, signed with the admin token. Raises UserError without it."""
    key = os.environ.get(study.admin_env, "")
    if not key:
        raise UserError(f"invites are signed with the organiser's token: export {study.admin_env} first, and serve the page with the same")
    return [f"{name}.{sign(key, folder.name, name)}" for name in (secrets.token_hex(8) for _ in range(n))]


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a study's folder. Raises UserError where another process has it, or there is no such study."""
    if not (folder / "items.jsonl").is_file():
        raise UserError(f"{folder}: no items.jsonl there; freeze the study first with `python -m eval.ballot`")
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{folder}: another process has this study open; end it first, one page serves all raters") from None
    finally:
        os.close(fd)


def withdraw_closed(folder: Path, code: str) -> None:
    """As Store.withdraw, when no page runs. Raises UserError for a code that is nobody's."""
    with held(folder):
        rater = next((event["rater"] for event in read_events(folder) if event["type"] == "rater" and event["code"] == plain(code)), None)
        if rater is None:
            raise UserError(f"{code!r} is the withdrawal code of nobody in {folder}")
        log = Log(folder)
        log.append({"type": "withdrawn", "t": time.time(), "rater": rater}, sync=True)
        log.close()


def erase(folder: Path) -> int:
    """Deletes the votes and answers of withdrawn raters from the events, for good, when no page runs; how many lines. That they withdrew is kept."""
    with held(folder):
        gone, n = {event["rater"] for event in read_events(folder) if event["type"] == "withdrawn"}, 0
        for path in sorted(folder.glob("events-*.jsonl")):
            lines = path.read_bytes().split(b"\n")[:-1]
            kept = [line for line in lines if not ((event := json.loads(line))["type"] in SAID_BY_RATERS and event["rater"] in gone)]
            if len(kept) < len(lines):
                with atomic(path, "wb") as file:
                    file.write(b"".join(line + b"\n" for line in kept))
                n += len(lines) - len(kept)
        if n:
            for name in ("votes.db", "votes.db-wal", "votes.db-shm"):  # is made anew
                (folder / name).unlink(missing_ok=True)
    return n


def counts(db: sqlite3.Connection) -> dict[str, int]:
    one = lambda sql: db.execute(sql).fetchone()[0]  # noqa: E731
    kinds = {f"{kind} votes": one(f"SELECT count(*) FROM assignment WHERE state = 'voted' AND kind = '{kind}'") for kind in ("main", "gold", "repeat")}
    return kinds | {
        "withdrawn votes": one("SELECT count(*) FROM assignment WHERE state = 'withdrawn'"),
        "raters who joined": one("SELECT count(*) FROM rater"),
        "raters with votes": one("SELECT count(DISTINCT rater) FROM assignment WHERE state = 'voted'"),
        "raters withdrawn": one("SELECT count(*) FROM rater WHERE withdrawn_at IS NOT NULL"),
    }


# ---------------------------------------------------------------- export


def replayed(folder: Path) -> sqlite3.Connection:
    """The events of a folder as a database in memory; the page may be running."""
    db = connect(":memory:")
    db.executescript(SCHEMA)
    load(db, read_jsonl(folder / "items.jsonl", "the frozen items of a study"), read_events(folder), time.time())
    return db


def export(folder: Path) -> list[dict]:
    """The votes of a study that were not withdrawn, in the order in which they came, without what identifies a rater.

    Each row: vote, rater (hashes), item, question_id, pair, kind (main, gold, repeat), position, left_is, choice, chosen (a, b, None), seconds_server,
    seconds_client, layout, input, received_at (day, UTC), the rater's questionnaire answers by key, quiz_passed, quiz_tries; gold_right: on a gold item,
    whether it was judged as expected; repeat_of: on a repeat, the vote it repeats; repeat_same: whether the same answer was chosen (a tie both times counts).
    """
    name, db = folder.name, replayed(folder)
    rows = db.execute(
        "SELECT v.*, a.item, a.pair, a.position, a.left_is, a.source, i.expected, r.answers, r.quiz_passed, r.quiz_tries, s.chosen AS source_chosen"
        " FROM vote v JOIN assignment a USING(token) JOIN item i USING(item) JOIN rater r ON r.rater = v.rater LEFT JOIN vote s ON s.token = a.source"
        " WHERE a.state = 'voted' ORDER BY v.received_at, v.token"
    ).fetchall()
    db.close()
    hide = lambda what, value: sha256(f"{name}:{what}:{value}")[:16]  # noqa: E731
    out = []
    for row in rows:
        kept = ("item", "question_id", "pair", "kind", "position", "left_is", "choice", "chosen", "seconds_server", "seconds_client", "layout", "input")
        made = {"vote": hide("vote", row["token"]), "rater": hide("rater", row["rater"])} | {key: row[key] for key in kept}
        made["received_at"] = datetime.fromtimestamp(row["received_at"], timezone.utc).strftime("%Y-%m-%d")
        made["quiz_passed"], made["quiz_tries"] = None if row["quiz_passed"] is None else bool(row["quiz_passed"]), row["quiz_tries"]
        made["gold_right"] = row["chosen"] == row["expected"] if row["kind"] == "gold" else None
        made["repeat_of"] = hide("vote", row["source"]) if row["source"] else None
        made["repeat_same"] = row["chosen"] == row["source_chosen"] if row["kind"] == "repeat" else None
        answers = json.loads(row["answers"] or "{}")
        if taken := sorted(set(answers) & set(made)):
            raise UserError(f"the questionnaire's key {taken[0]!r} is a column of its own in the export; rename it in the study's settings")
        out.append(made | answers)
    return out


def write_export(rows: list[dict], path: Path) -> None:
    """JSON lines or Parquet, by the path's ending; both where it has none."""
    if path.suffix not in ("", ".jsonl", ".parquet"):
        raise UserError(f"{path}: an export ends in .jsonl or .parquet, or has no ending for both")
    if path.suffix != ".parquet":
        write_jsonl(path.with_suffix(".jsonl"), rows)
    if path.suffix != ".jsonl":
        write_parquet(rows, path.with_suffix(".parquet"))


# Types of columns that may hold nothing but None, from which they could not be told. A choice is a word, or a point of five.
TYPES = {"chosen": "string", "repeat_of": "string", "layout": "string", "input": "string", "seconds_client": "float64"}
TYPES |= {"gold_right": "bool", "repeat_same": "bool", "quiz_passed": "bool", "quiz_tries": "int64", "tuned_left": "bool", "tuned_won": "float64"}


def write_parquet(rows: list[dict], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: pyarrow.array([row.get(name) for row in rows]) for name in dict.fromkeys(name for row in rows for name in row)})
    for i, field in enumerate(table.schema):
        if pyarrow.types.is_null(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(TYPES.get(field.name, "string")))
    with atomic(path, "wb") as file:
        pyarrow.parquet.write_table(table, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="out/votes/NAME")
    parser.add_argument("--export", type=Path, help="where to write the votes: .jsonl or .parquet; without an ending, both")
    parser.add_argument("--push", metavar="ORG/NAME", help="write the votes as a data set for others and push it to the Hub, privately; see eval.voteset")
    parser.add_argument("--dry-run", action="store_true", help="with --push: write FOLDER/publish and push nothing")
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to see")
    parser.add_argument("--found", metavar="TEXT", help="with --push: how the raters were found, for the card")
    parser.add_argument("--licence", help="with --push: of the votes, such as cc-by-4.0")
    parser.add_argument("--withdraw", metavar="CODE", help="take back the votes of the rater with this code")
    parser.add_argument("--erase", action="store_true", help="delete the votes and answers of withdrawn raters from the events")
    arguments = parser.parse_args()
    if arguments.withdraw:
        withdraw_closed(arguments.folder, arguments.withdraw)
    if arguments.erase:
        print(f"erased {erase(arguments.folder):,} votes and answers of raters who withdrew")
    for name, n in counts(replayed(arguments.folder)).items():
        print(f"{n:7,} {name}")
    if arguments.export:
        rows = export(arguments.folder)
        write_export(rows, arguments.export)
        print(f"wrote {arguments.export}: {len(rows):,} votes, withdrawn ones left out; ids are hashes, times are days")
    if arguments.push is not None:
        from eval import voteset

        voteset.publish(arguments.folder, arguments.push, arguments.found, arguments.licence, arguments.public, arguments.dry_run)


if __name__ == "__main__":
    entry(main)
