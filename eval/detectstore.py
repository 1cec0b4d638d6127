"""Keeps the answers of a detection study: the store of `eval.votes`, with a list of pairs for each participant instead of a lottery.

    python -m eval.detectstore out/detect/NAME                             # how many answers and participants there are
    python -m eval.detectstore out/detect/NAME --export answers.jsonl      # or .parquet; also while the page runs
    python -m eval.votes out/detect/NAME --withdraw CODE                   # as for votes; --erase, too

All that `eval.votes` promises holds: an answer is on disk before it is confirmed and counts once, the database is made anew from the events. A participant who is
let in takes a free list (`slot` in the events). Who has been away for `hold_hours` may lose the rest of a list to somebody else, and gets another when they come
back; in no case is anybody shown a second pair of the same person and goal.
"""

import argparse
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from datagen.files import entry, read_json, sha256
from eval import votes
from eval.ballot import frozen
from eval.votes import Ballot, Refused, Store, counts, export, kind_of, read_events, replayed, write_export

if TYPE_CHECKING:
    from eval.detectdesign import Detection

OUTCOMES = {"left": "left", "right": "right", "tie": "unsure"}


class DetectStore(Store):
    def __init__(self, folder: Path, study: "Detection", **more: object):
        super().__init__(folder, study, **more)
        self.lists: list[list[str]] = [[] for _ in range(study.participants)]
        for item in self.items.values():
            for slot in item["slots"]:
                self.lists[slot].append(item["item"])
        self.slots: dict[str, int] = {}  # the list of each participant
        self.holders: dict[int, tuple[str, float]] = {}  # who took each list last, and when
        for event in sorted(read_events(folder), key=lambda event: event["t"]):
            if event["type"] == "slot":
                self._took(event["rater"], event["slot"], event["t"])

    def _took(self, rater: str, slot: int, now: float) -> None:
        self.slots[rater], self.holders[slot] = slot, (rater, now)

    def _left(self, rater: str, slot: int, seen: set[str]) -> list[dict]:
        """The pairs of a list that this participant can still be shown, in their own order."""
        free = [item for item in map(self.items.get, self.lists[slot]) if item["question_id"] not in seen and self.counts[item["item"]][0] < self.study.votes_per_item]
        return sorted(free, key=lambda item: sha256(f"{self.study.seed}:{rater}:{item['item']}"))

    def _held(self, slot: int, rater: str) -> bool:
        """Whether a list belongs to somebody else who has not been away for too long."""
        holder, taken = self.holders.get(slot, (rater, 0.0))
        row = self._rater(holder)
        if holder == rater or row is None or row["withdrawn_at"] is not None:
            return False
        last = self._one(
            "SELECT max(a.served_at) AS served, (SELECT max(received_at) FROM vote WHERE vote.rater = ?1) AS said FROM assignment a WHERE a.rater = ?1", holder
        )
        return max(taken, last["served"] or 0, last["said"] or 0) > self.clock() - 3600 * self.study.hold_hours

    def _seen(self, rater: str) -> set[str]:
        return {row["question_id"] for row in self.db.execute("SELECT question_id FROM assignment WHERE rater = ? AND state = 'voted'", [rater])}

    def next(self, rater: str) -> Ballot | None:
        with self.lock:
            if self.stage(rater) == "vote":
                self._settle(rater)
            return super().next(rater)

    def _settle(self, rater: str) -> None:
        """Sees to it that the participant has a list with something on it, if there is one."""
        now = self.clock()
        if self._one("SELECT 1 FROM assignment WHERE rater = ? AND state = 'open' AND expires_at > ?", rater, now):
            return
        seen, mine = self._seen(rater), self.slots.get(rater)
        done = self._one("SELECT count(*) AS n FROM vote WHERE rater = ? AND kind = 'main'", rater)["n"]
        if done >= self.study.per_rater or (mine is not None and self.holders[mine][0] == rater and self._left(rater, mine, seen)):
            return
        left = {slot: len(self._left(rater, slot, seen)) for slot in range(len(self.lists)) if not self._held(slot, rater)}
        slot = max(left, key=lambda slot: (left[slot], -slot), default=None)
        if slot is None or not left[slot]:
            return
        with self._change() as event:
            event("slot", now, sync=False, rater=rater, slot=slot)
        self._took(rater, slot, now)

    def _draw(self, rater: str, opened: sqlite3.Row | None) -> tuple[dict | None, int]:
        """As votes.Store._draw: the next of the participant's list, on the side that the design gives it, or an attention check."""
        voted = self.db.execute("SELECT * FROM assignment WHERE rater = ? AND state = 'voted' ORDER BY position", [rater]).fetchall()
        seen, slot = {row["question_id"] for row in voted}, self.slots.get(rater)
        mine = slot is not None and self.holders[slot][0] == rater
        if not mine and not opened:
            return None, 0  # no check without a pair
        main = self._left(rater, slot, seen) if mine else []
        gold = [item for item in self.items.values() if kind_of(item) == "gold" and item["question_id"] not in seen]
        gold.sort(key=lambda item: sha256(f"{self.study.seed}:{rater}:{item['item']}"))
        if opened and opened["kind"] == "main":
            main.append(self.items[opened["item"]])
        kinds = self._kinds(rater, voted, main, gold)
        if opened:
            return dict(opened), max(1, len(kinds))
        if not kinds:
            return None, 0
        item = (gold if kinds[0] == "gold" else main)[0]
        side = "ab"[int(sha256(f"{rater}:{item['item']}")[:8], 16) % 2] if kinds[0] == "gold" else item["left"][item["slots"].index(slot)]
        values = {key: item[key] for key in ("item", "question_id", "pair")}
        return values | {"kind": kinds[0], "position": len(voted) + 1, "left_is": side, "source": None}, len(kinds)

    def say(self, rater: str, token: str, answer: dict) -> str:
        """Counts an answer, as votes.Store.cast. answer: choice (left, right, tie), confidence (1 to 3), and unless it is tie side (left, right) and number (from 1)
        of the utterance that gave it away; seconds, layout, input. Raises Refused where something is missing, and ValueError for what no page sends."""
        choice, confidence, side, number = (answer.get(name) for name in ("choice", "confidence", "side", "number"))
        if choice not in OUTCOMES:
            raise Refused("Please say which dialogue is artificial, or that you are not sure.")
        if confidence not in (1, 2, 3) or isinstance(confidence, bool):
            raise Refused("Please say how confident you are.")
        if choice == "tie":
            side = number = None
        elif side not in ("left", "right") or not isinstance(number, int) or isinstance(number, bool):
            raise Refused("Please click on the utterance that gave it away.")
        else:
            with self.lock:
                row = self._one("SELECT item, left_is FROM assignment WHERE token = ? AND rater = ?", token, rater)
                if row and not 1 <= number <= len(self.items[row["item"]][f"text_{votes.chosen(side, row['left_is'])}"]):
                    raise ValueError(f"there is no utterance {number} on the {side}")
        details = {"confidence": confidence, "utterance_side": side, "utterance": number}
        return self.cast(rater, token, choice, *(answer.get(name) for name in ("seconds", "layout", "input")), details=details)


def exported(folder: Path) -> list[dict]:
    """As votes.export, with confidence (1 to 3), utterance_side (left, right, None) and utterance (from 1, None) of each answer."""
    name = folder.name
    details = {sha256(f"{name}:vote:{event['token']}")[:16]: event["details"] for event in read_events(folder) if event["type"] == "vote"}
    return [row | details[row["vote"]] for row in export(folder)]


def joined(folder: Path) -> tuple[list[dict], dict]:
    """(rows as eval.detection takes them, the study's lock). Raises UserError where a file is not the one that the study was frozen with."""
    lock = frozen(folder)
    key, rows = read_json(folder / "key.json"), []
    for row in exported(folder):
        sides = key[row["item"]]
        simulated, other = ("a", "b") if sides["a"] == "simulated" else ("b", "a")
        at = {"left": row["left_is"], "right": other if row["left_is"] == simulated else simulated}
        outcome = "unsure" if row["chosen"] is None else "detected" if row["chosen"] == simulated else "fooled"
        made = {"participant": row["rater"], "person": sides["person"], "goal": sides["goal"], "model": sides["model"], "label": row["chosen"] or "tie"}
        made |= {name: row[name] for name in ("item", "kind", "position", "confidence", "utterance", "gold_right")}
        made |= {"simulated_left": row["left_is"] == simulated, "choice": OUTCOMES[row["choice"]], "outcome": outcome, "seconds": row["seconds_server"]}
        made["seconds_client"] = row["seconds_server"] if row["seconds_client"] is None else row["seconds_client"]
        made["side"] = row["utterance_side"] and ("simulated" if at[row["utterance_side"]] == simulated else "natural")
        rows.append(made | {"utterances": sides["utterances"][simulated]})
    return rows, lock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="out/detect/NAME")
    parser.add_argument("--export", type=Path, help="where to write the answers: .jsonl or .parquet")
    arguments = parser.parse_args()
    for name, n in counts(replayed(arguments.folder)).items():
        print(f"{n:7,} {name}")
    if arguments.export:
        rows = exported(arguments.folder)
        write_export(rows, arguments.export)
        print(f"wrote {arguments.export}: {len(rows):,} answers, withdrawn ones left out; ids are hashes, times are days")


if __name__ == "__main__":
    entry(main)
