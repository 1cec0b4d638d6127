"""Answers every question twice, as a friend would (chosen) and formally (rejected), until exactly `pairs` of them can be trained on.

    python -m datagen.pairs data/paper/questions.jsonl data/paper/pairs.jsonl --profile paper
    python -m datagen.pairs data/paper/questions.jsonl data/paper/shards/03of16/pairs.jsonl --shard 3/16     # one machine's part

Writes `pairs.jsonl` (id, kind, prompt, chosen, rejected), `rejects.jsonl` (what was left out, with its reason) and `ledger.json`, in
which asked = accepted + every reason, exactly. Questions are taken in order, never more of them than the pairs still missing; when they
run out, more are asked for (and kept in `questions.topup.jsonl`). The result does not depend on which reply came first.
"""

import argparse
import asyncio
import contextlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from datagen import config
from datagen.client import Client, Reply, Request
from datagen.files import UserError, atomic, entry, iter_jsonl, read_json, read_jsonl, sha256, write_json, write_jsonl
from datagen.filters import reason_against
from datagen.meter import estimate, spent, table
from datagen.questions import Source

STYLES = {"chosen": "human_like", "rejected": "formal"}
SAMPLE = 20  # replies from which the cost of the whole is estimated
AHEAD = 8  # questions under way for each request in flight: the most that wait for a slow one before them


def requests_for(question: dict, settings: config.Settings, model: str, tag: object = None) -> Iterator[Request]:
    for style, name in STYLES.items():
        messages = [("system", settings.prompt(name)), ("user", question["text"])]
        yield Request.of(settings.answers, model, messages, settings.seed, tag=(tag, style))


def pair_of(question: dict, replies: dict[str, Reply], settings: config.Settings) -> tuple[dict, str | None]:
    """(row, why it cannot be trained on or None) from a question and its replies by style."""
    chosen, rejected = replies["chosen"], replies["rejected"]
    row = {"id": question["id"], "kind": question["kind"], "prompt": question["text"], "chosen": chosen.text.strip(), "rejected": rejected.text.strip()}
    reason = reason_against(question["text"], chosen, rejected, settings.filters, [settings.prompt(name) for name in STYLES.values()])
    if reason == "failed":
        row["error"] = chosen.error or rejected.error
    return row, reason


@dataclass
class Maker:
    """Turns questions into accepted and rejected rows, in the order of the questions."""

    settings: config.Settings
    client: Client
    model: str
    wanted: int
    accept: IO[str]
    reject: IO[str]
    asked: int = 0
    accepted: int = 0
    reasons: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    under_way: dict[int, tuple[dict, dict[str, Reply]]] = field(default_factory=dict)
    announced: bool = False

    async def run(self, questions: Iterable[dict]) -> None:
        async with contextlib.aclosing(self.client.replies(self.requests(questions))) as replies:
            async for request, reply in replies:
                number, style = request.tag
                self.under_way[number][1][style] = reply
                self.decide()
                if not self.announced and self.client.sent and self.client.meter.usage[self.model].replies >= SAMPLE:
                    self.announced = True
                    print(table([self.estimate()], SAMPLE))
                self.client.meter.progress("pairs", self.accepted, self.wanted, len(self.client.running))

    def requests(self, questions: Iterable[dict]) -> Iterator[Request | None]:
        """Both requests of each question that is needed even if all that are under way are accepted; None while that is not known."""
        for question in questions:
            while self.accepted + len(self.under_way) >= self.wanted or len(self.under_way) >= AHEAD * self.client.window:
                if self.accepted >= self.wanted:
                    return
                yield None
            number = self.asked
            self.asked += 1
            self.under_way[number] = (question, {})
            yield from requests_for(question, self.settings, self.model, number)

    def decide(self) -> None:
        while self.under_way and len(next(iter(self.under_way.values()))[1]) == len(STYLES):
            question, replies = self.under_way.pop(next(iter(self.under_way)))
            row, reason = pair_of(question, replies, self.settings)
            if reason:
                self.reasons[reason] += 1
                self.reject.write(line(row | {"reason": reason}))
            else:
                self.accepted += 1
                self.kinds[row["kind"]] += 1
                self.accept.write(line(row))

    def estimate(self) -> dict:
        decided = self.accepted + self.reasons.total()
        rate = max(self.accepted, 1) / decided if decided else 1
        meter, endpoint = self.client.meter, self.settings.endpoint
        return estimate("answers", round(len(STYLES) * self.wanted / rate), meter.usage[self.model], meter.latencies, self.client.window, endpoint.batch)


def line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Shard:
    """One of `of` equal parts of the questions, by the range in which the hash of their id lies; numbered from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def read(cls, text: str) -> "Shard":
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"SHARD={text}: expected number/count, such as 3/16")
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, question: dict) -> bool:
        return int(sha256(question["id"])[:8], 16) * self.of >> 32 == self.number - 1

    def share(self, count: int) -> int:
        return count // self.of + (self.number <= count % self.of)


async def top_up(maker: Maker, source: Source) -> list[dict]:
    """New questions until the pairs are there, or `patience` rounds of them brought no further pair; returns all of them."""
    new, barren = [], 0
    while maker.accepted < maker.wanted and maker.accepted and barren < maker.settings.questions.patience:
        missing, before = maker.wanted - maker.accepted, maker.accepted
        count = min(math.ceil(missing * maker.asked / maker.accepted), maker.asked)
        print(f"  {missing} pairs are missing: asking for {count} more questions")
        questions = await source.more(count)
        if not questions:
            break
        new += questions
        await maker.run(questions)
        barren = 0 if maker.accepted > before else barren + 1
    return new


async def generate(args: argparse.Namespace, settings: config.Settings, shard: Shard, accept: IO[str], reject: IO[str]) -> dict:
    """The ledger, once the rows are written."""
    asked_for = read_json(args.questions.with_name("questions.ledger.json"))
    async with Client(settings.endpoint, args.store, prices=settings.prices, spent=spent(asked_for)) as client:
        model = await client.resolve(settings.answers.model)
        maker = Maker(settings, client, model, shard.share(settings.pairs), accept, reject)
        available = 0

        def questions() -> Iterator[dict]:
            nonlocal available
            for question in iter_jsonl(args.questions, "questions, from `make data`"):
                if question in shard:
                    available += 1
                    yield question

        rest = questions()
        await maker.run(rest)
        for _ in rest:  # counts what was left over
            pass
        ledger = {"questions": asked_for}
        if maker.accepted < maker.wanted and "requests" in asked_for and shard.of == 1:
            source = Source(settings, client)
            earlier = [args.questions.with_name("questions.heldout.jsonl"), args.questions]
            source.resume([row for path in earlier if path.exists() for row in read_jsonl(path, "questions")], asked_for["requests"])
            new = await top_up(maker, source)
            for row in source.collector.rejects:
                reject.write(line(row))
            write_jsonl(args.out.with_name("questions.topup.jsonl"), new)
            available += len(new)
            ledger["questions asked for later"] = {"asked": source.collector.asked, "accepted": len(new), "reasons": source.collector.reasons()}
        client.meter.progress("pairs", maker.accepted, maker.wanted, 0, final=True)
        ledger["pairs"] = {"asked": maker.asked, "accepted": maker.accepted, "reasons": dict(sorted(maker.reasons.items())), "kinds": dict(sorted(maker.kinds.items()))}
        ledger["total"] = total(ledger, available - maker.asked)
        ledger["usage"] = client.meter.as_json()
        ledger |= client.meter.otherwise()
        ledger["settings"] = {k: v for k, v in settings.model_dump(mode="json").items() if k not in ("endpoint", "prices", "traits")}
        return ledger


def total(ledger: dict, left_over: int) -> dict:
    """From every item that a model listed to the accepted pairs: asked = accepted + each reason."""
    stages = [ledger[name] for name in ("questions", "questions asked for later", "pairs") if name in ledger]
    reasons = sum((Counter(stage.get("reasons", {})) for stage in stages), Counter({"held out": ledger["questions"].get("held out", 0), "left over": left_over}))
    asked = sum(stage.get("asked", 0) for stage in stages) - ledger["pairs"]["asked"]
    return {"asked": asked, "accepted": ledger["pairs"]["accepted"], "reasons": dict(sorted((+reasons).items()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--shard", type=Shard.read, default=Shard(), help="number/count: only the questions whose hash lies in that range")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    with atomic(args.out) as accept:
        with atomic(args.out.with_name("rejects.jsonl")) as reject:
            ledger = asyncio.run(generate(args, settings, args.shard, accept, reject))
        made = ledger["pairs"]
        assert made["asked"] == made["accepted"] + sum(made["reasons"].values()), made
        assert args.shard.of > 1 or ledger["total"]["asked"] == ledger["total"]["accepted"] + sum(ledger["total"]["reasons"].values()), ledger
        write_json(args.out.with_name("ledger.json"), ledger)
        reasons = ", ".join(f"{n} {reason}" for reason, n in made["reasons"].items()) or "none"
        if not made["accepted"]:
            raise UserError(f"no pair was accepted (rejected: {reasons}); see {args.out.with_name('rejects.jsonl')}")
    print(f"{made['accepted']} pairs in {args.out} from {made['asked']} questions; rejected: {reasons}")
    wanted = args.shard.share(settings.pairs)
    if made["accepted"] < wanted:
        print(f"  that is fewer than the {wanted} asked for: no more questions were to be had", file=sys.stderr)


if __name__ == "__main__":
    entry(main)
