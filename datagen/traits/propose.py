"""Asks a model what gave the human-like one of two talks away: the raw statements that a rubric is made of.

    python -m datagen.traits.propose data/paper/pairs.jsonl data/traits/paper/statements.jsonl --profile paper

Each pair is shown once, as A and B in an order drawn by its id, without saying which is which (`prompts/traits/propose.txt`). The model names the human-like
one and gives 3 to 5 short statements as JSON; a reply that is anything else is asked for again with the sides exchanged. Writes one statement a row and,
beside it, a summary (.json): how often the model named the right side, by the model that wrote the other, with 95 % intervals by resampling groups.

Statements of wrong verdicts are kept unless `traits.verdicts` is `right`: which way a trait points is learnt later, with its weight, and right verdicts are mostly
those against the models that are easiest to tell. After the trait proposal of HAL (arXiv 2601.02813); the prompt is ours. `traits:` in datagen/config.yaml
says by which model, and for how many pairs.
"""

import argparse
import asyncio
import re
from collections import Counter
from pathlib import Path

import numpy as np

from datagen import config
from datagen.client import Client, Request
from datagen.files import UserError, canonical, entry, sha256, write_json, write_jsonl
from datagen.near import features
from datagen.traits import ask
from datagen.traits.contrast import Pair, fingerprint, read, talk
from eval.judge import ratio, share

STATEMENTS = (3, 5)
CHARACTERS = (8, 120)  # of one statement
LABELLED = re.compile(r"\b(?i:talk|text|reply|speaker|transcript|writer|person|side)[ _]?[AB]\b|\b[AB]'s\b")
SCHEMA = {
    "type": "object",
    "properties": {
        "human": {"type": "string", "enum": ["A", "B"]},
        "statements": {"type": "array", "items": {"type": "string", "minLength": CHARACTERS[0], "maxLength": CHARACTERS[1]}, "minItems": 3, "maxItems": 5},
    },
    "required": ["human", "statements"],
    "additionalProperties": False,
}


def chosen(pairs: list[Pair], most: int, seed: int | None) -> list[Pair]:
    """At most so many pairs, drawn by the hash of their ids, in the order of the file."""
    drawn = set(sorted((pair.id for pair in pairs), key=lambda id_: sha256(canonical([seed, "propose", id_])))[:most])
    return [pair for pair in pairs if pair.id in drawn]


def human_is(pair: Pair, attempt: int, seed: int | None) -> str:
    """Whether the human-like side is shown as A or as B; each further attempt exchanges them."""
    return "AB"[(ask.draw(seed, "order", pair.id) + attempt) % 2]


def request(pair: Pair, attempt: int, fault: str, settings: config.Settings, model: str, template: str) -> Request:
    human, other = talk(pair, "human"), talk(pair, "other")
    first, second = (human, other) if human_is(pair, attempt, settings.seed) == "A" else (other, human)
    text = ask.fill(template, fault, first=first, second=second)
    return ask.request(settings, model, text, attempt, SCHEMA, pair.id, settings.traits.temperature)


def read_reply(text: str) -> tuple[str, list[str]]:
    """("A" or "B", statements). Raises Unusable, saying what is wrong."""
    value = ask.one_object(text)
    if set(value) != {"human", "statements"}:
        raise ask.Unusable('the keys were not exactly "human" and "statements"')
    if value["human"] not in ("A", "B"):
        raise ask.Unusable('"human" was neither A nor B')
    statements = value["statements"]
    if not isinstance(statements, list) or not STATEMENTS[0] <= len(statements) <= STATEMENTS[1] or not all(isinstance(s, str) for s in statements):
        raise ask.Unusable('"statements" was not a list of 3 to 5 texts')
    statements = [" ".join(statement.split()) for statement in statements]
    if any(not CHARACTERS[0] <= len(statement) <= CHARACTERS[1] for statement in statements):
        raise ask.Unusable(f"a statement had fewer than {CHARACTERS[0]} or more than {CHARACTERS[1]} characters")
    if len({features(statement) for statement in statements}) < len(statements):
        raise ask.Unusable("a statement stood twice")
    if any(LABELLED.search(statement) for statement in statements):
        raise ask.Unusable("a statement mentioned A or B")
    return value["human"], statements


async def propose(pairs: list[Pair], settings: config.Settings, store: Path) -> tuple[list[dict], dict]:
    """(rows, one a statement; summary)."""
    template = ask.prompt(settings, "propose", "first", "second")
    shown = chosen(pairs, settings.traits.pairs, settings.seed)
    by_id = {pair.id: pair for pair in shown}
    async with Client(settings.endpoint, store, prices=settings.prices) as client:
        model = await client.resolve(settings.traits.model)

        def make(id_: str, attempt: int, fault: str) -> Request:
            return request(by_id[id_], attempt, fault, settings, model, template)

        print(ask.bill(client, [make(id_, 0, "") for id_ in by_id], "pairs to be shown"))
        found = await ask.answers(client, settings, make, lambda _, text: (read_reply(text), ""), list(by_id), "pairs")
        usage, otherwise = client.meter.as_json(), client.meter.otherwise()
    rows, verdicts = [], []
    for pair in shown:
        answer = found[pair.id]
        if not answer.values:
            continue
        named, statements = answer.values[-1]
        right = named == human_is(pair, answer.tries - 1, settings.seed)
        verdicts.append((pair, named, right))
        rows += [
            {"id": f"s-{sha256(canonical([pair.id, text]))[:10]}", "statement": text, "pair": pair.id, "group": pair.group, "source": pair.source, "right": right}
            for text in statements
            if right or settings.traits.verdicts == "all"
        ]
    summary = {
        "model": model,
        "prompt": str(Path(settings.prompts) / "traits/propose.txt"),
        "prompt_sha256": sha256(template),
        "sampling": {"temperature": settings.traits.temperature, "top_p": settings.traits.top_p, "seed": settings.seed, "schemas": settings.traits.schemas},
        "pairs": {"sha256": fingerprint(pairs), "in the file": len(pairs), "shown": len(shown), "answered": len(verdicts)},
        "no usable reply": dict(Counter(found[pair.id].fault for pair in shown if not found[pair.id].values).most_common()),
        "asked again": sum(answer.tries - 1 for answer in found.values()),
        "verdicts": {"what": "named the human-like side", **accuracy(verdicts)},
        "statements": {"kept": len(rows), "from": settings.traits.verdicts, "a pair": round(len(rows) / len(verdicts), 2) if verdicts else None},
        "usage": usage,
    }
    return rows, summary | otherwise


def accuracy(verdicts: list[tuple[Pair, str, bool]]) -> dict:
    """How often the right side was named: over all, by source, and where it stood as A or as B. A model that always says A is right in all of the one
    place and none of the other, whatever the draw of the places makes of the whole."""

    def of(rows: list[tuple[Pair, bool]]) -> dict | None:
        groups = sorted({pair.group for pair, _ in rows})
        at = {group: i for i, group in enumerate(groups)}
        hits, n = np.zeros(len(groups)), np.zeros(len(groups))
        for pair, hit in rows:
            hits[at[pair.group]] += hit
            n[at[pair.group]] += 1
        return ratio(hits, n)

    sources = sorted({pair.source or "not named" for pair, *_ in verdicts})
    return {
        "right": of([(pair, right) for pair, _, right in verdicts]),
        "right by place": {place: of([(pair, right) for pair, named, right in verdicts if (named == place) == right]) for place in "AB"},
        "by source": {source: of([(pair, right) for pair, _, right in verdicts if (pair.source or "not named") == source]) for source in sources},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="a contrastive set: see datagen.traits.contrast")
    parser.add_argument("out", type=Path, help="statements.jsonl; the summary is written beside it")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    rows, summary = asyncio.run(propose(read(args.pairs), settings, args.store))
    verdicts = summary["verdicts"]
    for fault, n in summary["no usable reply"].items():
        print(f"  {n} pairs without a usable reply: {fault}")
    if not rows:
        raise UserError(f"{summary['model']} gave no statements for {args.pairs}; is it a chat model? Its replies are in {args.store}")
    write_jsonl(args.out, rows)
    write_json(args.out.with_suffix(".json"), {"file": args.pairs} | summary)
    print(f"the human-like side was named in {share(verdicts['right'])} of {verdicts['right']['n']} pairs")
    print("  " + ", ".join(f"where it was {place}: {share(found)} of {found['n'] if found else 0}" for place, found in verdicts["right by place"].items()))
    for source, found in verdicts["by source"].items():
        print(f"  against {source}: {share(found)} of {found['n']}")
    print(f"{len(rows)} statements of {summary['statements']['from']} verdicts in {args.out}; {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    entry(main)
