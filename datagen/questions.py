"""Collects distinct questions, conversational and general, by asking for lists of them; or takes the user's own from a file.

    python -m datagen.questions data/paper/questions.jsonl --profile paper
    python -m datagen.questions data/paper/questions.jsonl --fill data/paper/topics.json     # add some on the topics that are missing
    python -m datagen.questions data/mine/questions.jsonl --from my-questions.txt

Writes rows `id, kind, text, source`; beside them `questions.heldout.jsonl` (split off first, never trained on), `questions.rejects.jsonl`
(what was left out, with its reason) and `questions.ledger.json`, in which asked = accepted + held out + every reason.
"""

import argparse
import asyncio
import math
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from datagen import config
from datagen.client import Client, Request
from datagen.files import UserError, entry, read_json, read_jsonl, read_text, sha256, write_json, write_jsonl
from datagen.filters import foreign
from datagen.near import Near, features
from datagen.topics import KINDS, reference, thin

# `1.`  `1)`  `**1.**`  `Q1:`  `-`  `*`  `•`, with any leading white space
ITEM = re.compile(r"^\s*(?:[*_]{0,2}(?:Q(?:uestion)?\s*)?(?P<number>\d{1,3})\s*[.):][*_]{0,2}|[-*•–])\s+(?P<text>.*)$", re.IGNORECASE)
# `**Bucket list** What …`, `**Bucket list:** What …`, `*Bucket list* - What …`
HEADING = re.compile(r"^(\*{1,2}|_{1,2})(?P<inside>[^*_]+)\1\s*[:–—-]?\s*(?P<rest>.*)$")
PREAMBLE = re.compile(r"\b(here (are|is|you go)|sure|certainly|of course)\b.*:?\s*$|:\s*$", re.IGNORECASE)


def parse_list(text: str, finish_reason: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The questions in a model's reply, stripped of numbers, bullets, headings and quotes; and what was dropped, as (text, reason).

    Takes numbered and bulleted lists, items wrapped over lines, and bare lines that are questions. When the reply was
    cut off (`finish_reason` length) its last item is dropped.
    """
    items: list[str] = []
    dropped: list[tuple[str, str]] = []
    in_item = False
    for line in text.splitlines():
        match = ITEM.match(line)
        if match:
            items.append(match["text"].strip())
            in_item = True
        elif not line.strip():
            in_item = False
        elif in_item:
            items[-1] += " " + line.strip()
        elif line.strip().endswith("?") and not PREAMBLE.search(line.strip()):
            items.append(line.strip())
    if finish_reason == "length" and items:
        dropped.append((items.pop(), "cut off"))
    questions = []
    for item in items:
        question = strip_marks(item)
        if "?" not in question or len(question.split()) < 3:
            dropped.append((item, "not a question"))
        else:
            questions.append(question)
    return questions, dropped


def strip_marks(item: str) -> str:
    """`**Bucket list** "What …?"` becomes `What …?`; a question that is bold as a whole keeps its words."""
    heading = HEADING.match(item)
    if heading:
        item = heading["rest"] if "?" in heading["rest"] else f"{heading['inside']} {heading['rest']}".strip()
    item = re.sub(r"\*\*|__", "", item).strip()
    if len(item) > 1 and item[0] in '"“' and item[-1] in '"”':
        item = item[1:-1].strip()
    return item


class Avoid:
    """Evaluation prompts that no question may repeat: none of them may hold `threshold` of a question's word pairs."""

    def __init__(self, sources: list[str], threshold: float):
        self.threshold, self.holders = threshold, defaultdict(set)
        texts = [text for source in sources for text in read_texts(source, "evaluation prompts (`avoid:` in datagen/config.yaml)")]
        for i, text in enumerate(texts):
            for pair in features(text):
                self.holders[pair].add(i)

    def __contains__(self, text: str) -> bool:
        pairs = [pair for pair in features(text) if "^" not in pair and "$" not in pair]
        shared = Counter(i for pair in pairs for i in self.holders.get(pair, ()))
        return bool(pairs) and max(shared.values(), default=0) >= self.threshold * len(pairs)


class Collector:
    """Keeps what is new; counts and keeps what is not, with its reason."""

    def __init__(self, settings: config.Questions):
        self.rows, self.rejects, self.asked = [], [], 0
        self.near, self.exact, self.avoid = Near(settings.near_duplicate), set(), Avoid(settings.avoid, settings.near_duplicate)

    def know(self, text: str) -> None:
        """Counts `text` as asked already."""
        self.exact.add(plain(text))
        self.near.add(text)

    def offer(self, kind: str, text: str, source: str, wanted: bool = True) -> None:
        if not wanted:
            reason = "left over"
        elif plain(text) in self.exact:
            reason = "duplicate question"
        elif self.near.matches(text):
            reason = "near-duplicate"
        elif text in self.avoid:
            reason = "contaminated"
        else:
            self.asked += 1
            self.know(text)
            self.rows.append({"id": sha256(text)[:12], "kind": kind, "text": text, "source": source})
            return
        self.reject(kind, text, source, reason)

    def reject(self, kind: str, text: str, source: str, reason: str) -> None:
        self.asked += 1
        self.rejects.append({"kind": kind, "text": text, "source": source, "reason": reason})

    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(row["reason"] for row in self.rejects).items()))


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


class Source:
    """Questions by the large model, as many as are wanted: in rounds, each of which shows it topics and questions of earlier rounds."""

    def __init__(self, settings: config.Settings, client: Client, fill: list[str] | None = None):
        self.settings, self.client, self.collector = settings, client, Collector(settings.questions)
        self.requests, self.failed, self.have = Counter(), 0, Counter()
        self.known: dict[str, list[str]] = {kind: [] for kind in KINDS}  # by kind, for examples
        self.topics = {kind: fill or [topic for theme in reference(kind).values() for topic in theme] for kind in KINDS} if settings.questions.topics else None

    def resume(self, rows: list[dict], requests: dict[str, int]) -> None:
        """Goes on behind an earlier run: its questions are not asked again, nor its requests sent again."""
        self.requests.update(requests)
        for row in rows:
            self.collector.know(row["text"])
            self.known.setdefault(row["kind"], []).append(row["text"])

    def request(self, kind: str, model: str, sample: int) -> Request:
        wanted = self.settings.questions
        text = self.settings.prompt("list_request").format(n=wanted.per_request)
        rng = random.Random(f"{self.settings.seed} {kind} {sample}")
        if self.topics:
            topics = rng.sample(self.topics[kind], min(wanted.topics, len(self.topics[kind])))
            examples = rng.sample(self.known[kind], min(wanted.examples, len(self.known[kind])))
            listed = "\n".join(f"- {example}" for example in examples) or "- (none yet)"
            text += "\n\n" + self.settings.prompt("list_seeds").format(topics="; ".join(topics), examples=listed)
        messages = [("system", self.settings.prompt(f"questions_{kind}")), ("user", text)]
        return Request.of(wanted, model, messages, self.settings.seed, sample=sample, tag=(sample, kind))

    async def more(self, count: int) -> list[dict]:
        """`count` new questions of both kinds, in the ratio of the config; fewer after `patience` rounds in a row without a new one."""
        wanted, collector = self.settings.questions, self.collector
        model = await self.client.resolve(wanted.model)
        start, goals = len(collector.rows), split_count(count, wanted.conversational)
        goals = {kind: self.have[kind] + goal for kind, goal in goals.items()}
        barren, fresh = Counter(), dict.fromkeys(goals, float(wanted.per_request))  # new questions that a request brings
        while short := {kind: goal - self.have[kind] for kind, goal in goals.items() if self.have[kind] < goal and barren[kind] < wanted.patience}:
            asked, n = [], {}
            for kind, missing in short.items():
                n[kind] = min(wanted.requests_per_round, math.ceil(missing / fresh[kind]))
                asked += [self.request(kind, model, self.requests[kind] + i) for i in range(n[kind])]
                self.requests[kind] += n[kind]
            before = self.have.copy()
            replies = []
            async for pair in self.client.replies(iter(asked)):
                replies.append(pair)
                self.client.meter.progress("questions", len(collector.rows) - start, count, len(self.client.running))
            # Sorted by sample: the result must not depend on which reply came first.
            for request, reply in sorted(replies, key=lambda pair: pair[0].tag):
                self.read(request, reply, goals)
            for kind in short:
                new = self.have[kind] - before[kind]
                barren[kind], fresh[kind] = 0 if new else barren[kind] + 1, max(new, 0.5) / n[kind]
                print(f"  {kind}: {self.have[kind]} of {goals[kind]} after {self.requests[kind]} requests")
                if barren[kind] == wanted.patience:
                    print(f"  {kind}: {wanted.patience} rounds brought nothing new; going on with {self.have[kind]}", file=sys.stderr)
        return collector.rows[start:]

    def read(self, request: Request, reply, goals: dict[str, int]) -> None:
        kind, source = request.tag[1], f"{request.model} {request.key[:12]}"
        if reply.finish_reason == "failed":
            self.failed += 1
            print(f"  a request failed: {reply.error}", file=sys.stderr)
        items, dropped = parse_list(reply.text, reply.finish_reason)
        for text, reason in dropped:
            self.collector.reject(kind, text, source, reason)
        language = self.settings.filters.language
        for item in items:
            if language and foreign(item, language):
                self.collector.reject(kind, item, source, "wrong language")
                continue
            rows = len(self.collector.rows)
            self.collector.offer(kind, item, source, wanted=self.have[kind] < goals[kind])
            if len(self.collector.rows) > rows:
                self.have[kind] += 1
                self.known[kind].append(item)


def split_count(count: int, conversational: float) -> dict[str, int]:
    first = round(count * conversational)
    return {"conversational": first, "general": count - first}


def hold_out(rows: list[dict], settings: config.Questions) -> tuple[list[dict], list[dict]]:
    """(rows to train on, the first rows of each kind, `held_out` in all)."""
    left = split_count(settings.held_out, settings.conversational)
    held = []
    for row in rows:
        if left.get(row["kind"], 0) > 0:
            left[row["kind"]] -= 1
            held.append(row)
    ids = {row["id"] for row in held}
    return [row for row in rows if row["id"] not in ids], held


def read_texts(source: str, what: str) -> list[str]:
    """Texts of a file (one a line; or rows with `text`, `question` or `prompt`) or of a Hub data set. Raises UserError."""
    path = Path(source)
    if path.suffix == ".txt" or (path.is_file() and path.suffix not in (".jsonl", ".json", ".parquet")):
        texts = [line.strip() for line in read_text(path, f"{what}, one a line").splitlines() if line.strip()]
    else:
        from datagen.format import read_pairs

        rows = read_jsonl(path, what) if path.suffix == ".jsonl" else read_pairs(source)[0]
        texts = [next((row[k] for k in ("text", "question", "prompt") if isinstance(row.get(k), str)), "") for row in rows]
        if not all(text.strip() for text in texts):
            number = next(i for i, text in enumerate(texts, 1) if not text.strip())
            raise UserError(f"{source}: row {number} has no text under `text`, `question` or `prompt`")
    if not texts:
        raise UserError(f"{source}: holds no questions; write one a line")
    return texts


def take(path: Path, settings: config.Settings) -> Collector:
    """The user's own questions, shuffled by seed, so that a part of them is a sample."""
    collector = Collector(settings.questions)
    lines = sorted(enumerate(read_texts(str(path), "your questions"), 1))
    random.Random(settings.seed).shuffle(lines)
    for number, text in lines:
        collector.offer("given", strip_marks(text), f"{path.name}:{number}")
    return collector


def earlier_run(out: Path, wanted: config.Questions) -> tuple[list[dict], dict]:
    """(its questions, held-out ones first; its ledger) of an earlier run, to which topics are to be added. Raises UserError."""
    if not wanted.topics:
        raise UserError("no topics are drawn on in this profile: set questions.topics in datagen/config.yaml")
    ledger = read_json(out.with_name("questions.ledger.json"))
    rows = [*read_jsonl(out.with_name("questions.heldout.jsonl"), "questions"), *read_jsonl(out, "questions")]
    if len(rows) >= wanted.count + wanted.held_out:
        raise UserError(f"{out}: holds all {len(rows)} questions that are wanted; raise questions.count in datagen/config.yaml to add some on these topics")
    return rows, ledger


async def generate(settings: config.Settings, store: Path, earlier: list[dict], before: dict, fill: list[str] | None) -> tuple[Source, dict]:
    """(source with its new questions, what they took), going on behind `earlier` ones and the ledger of `before`."""
    count = settings.questions.count + settings.questions.held_out - len(earlier)
    async with Client(settings.endpoint, store, prices=settings.prices) as client:
        source = Source(settings, client, fill)
        source.resume(earlier, before.get("requests", {}))
        client.meter.recall(before)
        await source.more(count)
        client.meter.progress("questions", len(source.collector.rows), count, 0, final=True)
        if not earlier and not source.collector.rows:
            raise UserError(f"{client.where}: the model returned no question that could be read; its replies are kept in {client.store.folder}")
        return source, {"usage": client.meter.as_json()} | client.meter.otherwise()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--from", dest="source", help="your own questions instead of generated ones")
    parser.add_argument("--fill", type=Path, help="topics.json of `make topics`: draw on the topics that have hardly any question")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    if args.source:
        collector = take(Path(args.source), settings)
        rows, held, ledger = collector.rows, [], {}
    else:
        earlier, before, fill = [], {}, None
        if args.fill:
            earlier, before, fill = *earlier_run(args.out, settings.questions), thin(args.fill)
            print(f"drawing on {len(fill)} topics: {', '.join(fill[:8])}{' …' if len(fill) > 8 else ''}")
        source, took = asyncio.run(generate(settings, args.store, earlier, before, fill))
        collector = source.collector
        rows, held = hold_out([*earlier, *collector.rows], settings.questions)
        collector.asked += before.get("asked", 0)
        collector.rejects[:0] = read_jsonl(args.out.with_name("questions.rejects.jsonl")) if earlier else []
        ledger = {"requests": dict(source.requests), "failed requests": source.failed, **took}
    ledger = {"asked": collector.asked, "accepted": len(rows), "held out": len(held), "reasons": collector.reasons()} | ledger
    assert ledger["asked"] == len(rows) + len(held) + sum(ledger["reasons"].values()), ledger
    write_jsonl(args.out.with_name("questions.rejects.jsonl"), collector.rejects)
    write_jsonl(args.out.with_name("questions.heldout.jsonl"), held)
    write_json(args.out.with_name("questions.ledger.json"), ledger)
    write_jsonl(args.out, rows)
    dropped = ", ".join(f"{n} {reason}" for reason, n in ledger["reasons"].items()) or "none"
    print(f"{len(rows)} questions in {args.out}, {len(held)} more held out; left out: {dropped}")


if __name__ == "__main__":
    entry(main)
