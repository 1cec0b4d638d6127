"""Collects distinct questions, conversational and general, by asking for lists of them; or takes the user's own from a file.

    python -m datagen.questions data/paper/questions.jsonl --profile paper
    python -m datagen.questions data/mine/questions.jsonl --from my-questions.txt

Writes rows `id, kind, text, source`, and beside them `questions.ledger.json`: how many items came and why some were dropped.
"""

import argparse
import asyncio
import math
import random
import re
import sys
from collections import Counter
from pathlib import Path

from datagen import config
from datagen.client import Client, Request
from datagen.files import UserError, entry, read_jsonl, read_text, sha256, write_json, write_jsonl
from datagen.near import Near

# `1.`  `1)`  `**1.**`  `Q1:`  `-`  `*`  `•`, with any leading white space
ITEM = re.compile(r"^\s*(?:[*_]{0,2}(?:Q(?:uestion)?\s*)?(?P<number>\d{1,3})\s*[.):][*_]{0,2}|[-*•–])\s+(?P<text>.*)$", re.IGNORECASE)
# `**Bucket list** What …`, `**Bucket list:** What …`, `*Bucket list* - What …`
HEADING = re.compile(r"^(\*{1,2}|_{1,2})(?P<inside>[^*_]+)\1\s*[:–—-]?\s*(?P<rest>.*)$")
PREAMBLE = re.compile(r"\b(here (are|is|you go)|sure|certainly|of course)\b.*:?\s*$|:\s*$", re.IGNORECASE)


def parse_list(text: str, finish_reason: str) -> tuple[list[str], Counter]:
    """The questions in a model's reply, stripped of numbers, bullets, headings and quotes; and a count of what was dropped, by reason.

    Takes numbered and bulleted lists, items wrapped over lines, and bare lines that are questions. When the reply was
    cut off (`finish_reason` length) its last item is dropped.
    """
    items: list[str] = []
    dropped: Counter = Counter()
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
        items.pop()
        dropped["cut off"] += 1
    questions = []
    for item in items:
        question = strip_marks(item)
        if "?" not in question or len(question.split()) < 3:
            dropped["not a question"] += 1
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


def row(kind: str, text: str, source: str) -> dict:
    return {"id": sha256(text)[:12], "kind": kind, "text": text, "source": source}


class Collector:
    """Keeps what is new and counts what is not."""

    def __init__(self, threshold: float):
        self.rows, self.ledger, self.near, self.exact = [], Counter(), Near(threshold), set()

    def offer(self, kind: str, text: str, source: str) -> None:
        plain = " ".join(re.findall(r"\w+", text.lower()))
        self.ledger["items"] += 1
        if plain in self.exact:
            self.ledger["duplicate"] += 1
        elif matches := self.near.matches(text):
            self.ledger["near-duplicate"] += 1
            if self.ledger["near-duplicate"] <= 3:
                print(f"  near-duplicates, the second is dropped: {self.rows[matches[0]]['text']!r} and {text!r}")
        else:
            self.exact.add(plain)
            self.near.add(text)
            self.rows.append(row(kind, text, source))
            self.ledger["kept"] += 1


async def collect(settings: config.Settings, client: Client) -> Collector:
    """Asks in rounds until `count` distinct questions are there, or `patience` rounds in a row brought nothing new."""
    wanted = settings.questions
    model = await client.resolve(wanted.model)
    of_kind = {"conversational": round(wanted.count * wanted.conversational)}
    of_kind["general"] = wanted.count - of_kind["conversational"]
    request_text = settings.prompt("list_request").format(n=wanted.per_request)
    collector = Collector(wanted.near_duplicate)
    for kind, count in of_kind.items():
        messages = [("system", settings.prompt(f"questions_{kind}")), ("user", request_text)]
        sample = barren = 0
        goal = len(collector.rows) + count
        while len(collector.rows) < goal and barren < wanted.patience:
            n = min(math.ceil((goal - len(collector.rows)) / wanted.per_request), 4 * client.endpoint.concurrency)
            asked = [Request.of(wanted, model, messages, settings.seed, sample=i) for i in range(sample, sample + n)]
            sample += n
            before = len(collector.rows)
            # Sorted by sample number: the result must not depend on which reply came first.
            for request, reply in sorted([pair async for pair in client.replies(asked)], key=lambda pair: pair[0].sample):
                collector.ledger["requests"] += 1
                collector.ledger["prompt_tokens"] += reply.usage.get("prompt_tokens", 0)
                collector.ledger["completion_tokens"] += reply.usage.get("completion_tokens", 0)
                if reply.finish_reason == "failed":
                    collector.ledger["failed requests"] += 1
                    print(f"  a request failed: {reply.error}", file=sys.stderr)
                items, dropped = parse_list(reply.text, reply.finish_reason)
                collector.ledger.update({"items": dropped.total()} | dropped)
                for item in items:
                    if len(collector.rows) < goal:
                        collector.offer(kind, item, f"{model} {request.key[:12]}")
                    else:
                        collector.ledger.update({"items": 1, "more than asked for": 1})
            barren = barren + 1 if len(collector.rows) == before else 0
            print(f"  {kind}: {len(collector.rows) - goal + count} of {count} after {sample} requests")
        if len(collector.rows) < goal:
            print(f"  {kind}: {barren} rounds brought nothing new, going on with {len(collector.rows) - goal + count} of {count}", file=sys.stderr)
    if not collector.rows:
        raise UserError(f"{client.where}: {model} returned no question that could be read; its replies are kept in {client.store.folder}")
    return collector


async def generate(settings: config.Settings, store: Path) -> Collector:
    async with Client(settings.endpoint, store) as client:
        collector = await collect(settings, client)
        print(f"  {client.sent} requests sent, {client.cached} answered from {store}")
        return collector


def take(path: Path, threshold: float, seed: int | None) -> Collector:
    """The user's own questions: one a line, or JSON lines with `text`, `question` or `prompt`. Shuffled by seed, so a part is a sample."""
    if path.suffix in (".jsonl", ".json"):
        texts = [next((r[k] for k in ("text", "question", "prompt") if isinstance(r.get(k), str)), "") for r in read_jsonl(path, "your questions")]
        if not all(text.strip() for text in texts):
            number = next(i for i, text in enumerate(texts, 1) if not text.strip())
            raise UserError(f"{path}: row {number} has no text under `text`, `question` or `prompt`")
    else:
        texts = [line for line in read_text(path, "your questions, one a line").splitlines() if line.strip()]
    if not texts:
        raise UserError(f"{path}: holds no questions; write one a line")
    collector = Collector(threshold)
    lines = sorted(enumerate(texts, 1))
    random.Random(seed).shuffle(lines)
    for number, text in lines:
        collector.offer("given", strip_marks(text.strip()), f"{path.name}:{number}")
    return collector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--from", dest="source", type=Path, help="your own questions instead of generated ones")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    given = args.source and take(args.source, settings.questions.near_duplicate, settings.seed)
    collector = given or asyncio.run(generate(settings, args.store))
    write_json(args.out.with_name("questions.ledger.json"), dict(collector.ledger))
    write_jsonl(args.out, collector.rows)
    dropped = {k: v for k, v in collector.ledger.items() if k in ("cut off", "not a question", "duplicate", "near-duplicate", "more than asked for")}
    print(f"{len(collector.rows)} questions in {args.out}; dropped: {', '.join(f'{v} {k}' for k, v in dropped.items()) or 'none'}")


if __name__ == "__main__":
    entry(main)
