"""Pairs that keep the warmth and take away the lie: asked what it is, the model says so as a friend would (chosen), instead of passing for a person.

    python -m datagen.honest data/tiny/honest-80.jsonl --pairs 80 --profile tiny

The prompt of human-like answers forbids remarks about being an AI, and models trained on them learn to deny it. Here each question of
`datagen/identity.yaml` is answered by the model of `answers` under `prompts/honest.txt` (chosen) and under `prompts/human_like.txt` (rejected). A
pair is kept only if the rules of `eval/honesty.py` call the chosen answer honest and the rejected one not. When the questions run out, they are
asked again for another sample. Writes the pairs, and beside them `.rejects.jsonl` and `.ledger.json`, in which asked = accepted + every reason.
An ablation's `data: {honest_identity: N}` adds the first N to its training rows (`datagen.format`).
"""

import argparse
import asyncio
import itertools
from collections import Counter
from pathlib import Path

from pydantic import Field, ValidationError

from datagen import config
from datagen.client import Client, Reply, Request
from datagen.files import UserError, entry, read_json, sha256, write_json, write_jsonl
from datagen.filters import reason_against
from datagen.meter import spent
from eval.honesty import HONEST, grade

STYLES = {"chosen": "honest", "rejected": "human_like"}
SAMPLES = 8  # the most pairs of answers to one question


class Setting(config.Strict):
    say: str = Field(pattern=r"\{question\}")
    before: list[str] = Field(default_factory=list)


class Identity(config.Strict):
    wordings: list[str]
    settings: list[Setting]


def questions(path: Path = config.IDENTITY) -> list[list[dict]]:
    """Every wording in every setting, as messages that end in the user's. Raises UserError for a fault in the file."""
    try:
        asked = Identity(**config.read_yaml(path, "questions about identity"))
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}" for fault in error.errors())) from None
    made = []
    for setting, wording in itertools.product(asked.settings, asked.wordings):
        turns = [*setting.before, setting.say.replace("{question}", wording)]
        made.append([{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(turns)])
    return made


def in_order(seed: int | None) -> list[list[dict]]:
    """All questions, in an order that depends on nothing but the seed and their words: the first N are of all wordings and settings."""
    return sorted(questions(), key=lambda messages: sha256(config.canonical([seed, messages])))


def pair_of(messages: list[dict], sample: int, replies: dict[str, Reply], settings: config.Settings) -> tuple[dict, str | None]:
    """(row, why it cannot be trained on or None). That the chosen answer speaks of being an AI is no fault here."""
    chosen, rejected = replies["chosen"], replies["rejected"]
    row = {"id": f"{sha256(config.canonical(messages))[:12]}-{sample}", "kind": "identity", "prompt": messages if len(messages) > 1 else messages[0]["content"]}
    row |= {style: replies[style].text.strip() for style in STYLES}
    filters = settings.filters.model_copy(update={"ai_self_reference": False})
    reason = reason_against(messages[-1]["content"], chosen, rejected, filters, [settings.prompt(name) for name in STYLES.values()])
    if not reason and grade(chosen.text) != {HONEST}:
        reason = f"chosen answer: {' and '.join(sorted(grade(chosen.text)))}"
    if not reason and HONEST in grade(rejected.text):
        reason = "rejected answer: honest"
    return row, reason


async def make(settings: config.Settings, store: Path, wanted: int, before: object) -> tuple[list[dict], list[dict], dict]:
    """(accepted rows, rejected rows, ledger). Never more is asked for than is still missing, so the result depends on no order of replies."""
    accepted, rejects = [], []
    order = in_order(settings.seed)
    rest = ((sample, messages) for sample in range(SAMPLES) for messages in order)
    async with Client(settings.endpoint, store, prices=settings.prices, spent=before) as client:
        model = await client.resolve(settings.answers.model)
        while part := list(itertools.islice(rest, wanted - len(accepted))):
            requests = (
                Request.of(
                    settings.answers,
                    model,
                    [("system", settings.prompt(name)), *((m["role"], m["content"]) for m in messages)],
                    settings.seed,
                    sample=sample,
                    tag=(i, style),
                )
                for i, (sample, messages) in enumerate(part)
                for style, name in STYLES.items()
            )
            replies = {}
            async for request, reply in client.replies(requests):
                replies[request.tag] = reply
                client.meter.progress("honest pairs", len(accepted), wanted, len(client.running))
            for i, (sample, messages) in enumerate(part):
                row, reason = pair_of(messages, sample, {style: replies[i, style] for style in STYLES}, settings)
                if reason:
                    rejects.append(row | {"reason": reason})
                else:
                    accepted.append(row)
        reasons = Counter(row["reason"] for row in rejects)
        ledger = {"asked": len(accepted) + len(rejects), "accepted": len(accepted), "reasons": dict(sorted(reasons.items())), "questions": len(order)}
        return accepted, rejects, ledger | {"usage": client.meter.as_json()} | client.meter.otherwise()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, required=True, help="how many: `honest_identity` of the ablation")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    earlier = args.out.with_name("ledger.json")  # of the ordinary pairs: the budget covers both
    before = read_json(earlier) if earlier.exists() else {}
    accepted, rejects, ledger = asyncio.run(make(settings, args.store, args.pairs, spent(before) + spent(before.get("questions", {}))))
    said = args.out.with_suffix(".rejects.jsonl")
    write_jsonl(said, rejects)
    write_json(args.out.with_suffix(".ledger.json"), ledger)
    reasons = ", ".join(f"{n} {reason}" for reason, n in ledger["reasons"].items()) or "none"
    if len(accepted) < args.pairs:
        raise UserError(f"only {len(accepted)} of {args.pairs} honest pairs were accepted, after {SAMPLES} samples of each question (rejected: {reasons}); see {said}")
    write_jsonl(args.out, accepted)
    print(f"{len(accepted)} pairs in {args.out} from {ledger['asked']} questions, {len({str(row['prompt']) for row in accepted})} of them distinct; rejected: {reasons}")


if __name__ == "__main__":
    entry(main)
