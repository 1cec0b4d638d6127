"""Preference pairs of several turns: the inquirer talks with a friend, and every answer of the friend's stands beside a formal one to the same history.

    python -m datagen.roleplay.prefer --profile tiny          # data/roleplay/tiny/roleplay-tiny.jsonl; `make roleplay-pairs`
    make train MODEL=tiny PAIRS=data/roleplay/tiny/roleplay-tiny.jsonl

The dialogues are those of `datagen.roleplay.run`, with personas, goals and the inquirer of its config; in the responder's place stands the model of `answers` in
datagen/config.yaml, asked twice a turn under the prompts of `datagen.pairs` (chosen: human_like, rejected: formal). What both sides read on is the chosen
answer, in a stated share of dialogues (by the hash of their id) the formal one. The friend may have a card of facts about itself, and is told what it has
claimed so far; an answer that contradicts that is left out (`datagen.roleplay.facts`, and a judge if one is named). Settings: prefer.yaml.

Rows are {id, kind, prompt, chosen, rejected, dialogue, persona, turn, history, split}: `prompt` is the message list that a deployed model would see, without any
system prompt, and ends with the user's. `split` goes by persona, so that no persona and no dialogue is on both sides; `datagen.format` keeps to it. Beside
them: `.rejects.jsonl` (each with its reason), `.dialogues.jsonl` (whole dialogues) and `.ledger.json`, in which asked = accepted + every reason. All
replies come from or go to the store, under the one BUDGET_USD: the same command goes on after an interruption.
"""

import argparse
import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from datagen import config
from datagen.client import Client, Reply, Request
from datagen.config import Strict, merge, read_prompt, read_yaml
from datagen.files import UserError, atomic, canonical, entry, sha256, write_json, write_jsonl
from datagen.filters import reason_against
from datagen.pairs import STYLES
from datagen.roleplay import detect
from datagen.roleplay import dialogue as play
from datagen.roleplay.facts import contradictions, facts
from datagen.roleplay.record import Dialogue, dialogue_id, line
from datagen.roleplay.run import OUT, Clients, locked, versions
from datagen.roleplay.settings import PATH, Settings, fault, fill, load
from eval.surface import bootstrap, plain, words

CHOICES = Path("datagen/roleplay/prefer.yaml")
Share = Annotated[float, Field(ge=0, le=1)]
# Somebody who wants to know whether they talk to a person: no answer that passes for one is to be preferred there. Found by the words for what it could
# be; questions about a life that only a person has ("where were you born?") are not found: friends ask each other that.
BEING = r"(?:human|bot|chat ?bot|robot|machine|ai|a\.i\.|computer|program|software|algorithm|language model|llm|chatgpt|gpt)s?"
SOMEBODY = r"(?:(?:real|actual|live|living|genuine|human) (?:person|man|woman|guy|people|being|doctor|lawyer|one)|person|somebody|someone|human being)"
WHAT_ARE_YOU = re.compile(
    rf"\b(?:are|r|aren't|is|am) (?:you|u|ya|this|that|it|i) (?:[\w'-]+ ){{0,6}}?{BEING}\b(?![- ](?:lover|fan|expert|scientist|rights|body))"
    rf"|\b(?:you're|you are|ur|are you|r u|are u) (?:just |really |actually |even |not )*(?:an? |another )?{SOMEBODY}\b"
    r"|\b(?:are|r) (?:you|u) (?:one|another one)\b(?! of (?:the|those))"
    rf"|\b(?:you're|you are|youre|ur) (?:just |really |actually |even |not )*(?:an? )?{BEING}\b"
    r"|\bare (?:you|u) (?:for )?(?:even |really |actually )?(?:real|alive|conscious|sentient|automated)\b"
    r"|\bwhat (?:exactly |actually |really |kind of thing )?are (?:you|u)(?: exactly| really| actually)?\s*(?:[?!.,]|$)"
    r"|\bwh(?:at|o),? (?:or what,? )?you are\s*(?:[?!.]|$)"
    r"|\bwho (?:or what )?(?:are you|is writing|is typing|am i (?:talking|speaking|writing|chatting)|i am (?:talking|speaking|writing|chatting))\b"
    rf"|\b(?:talking|speaking|chatting|writing|texting) (?:to|with) (?:[\w'-]+ ){{0,4}}?(?:{BEING}|{SOMEBODY})\b"
    rf"|\bis this (?:an? )?{SOMEBODY}\b|\b(?:{BEING}|{SOMEBODY}) or (?:an? )?(?:{BEING}|{SOMEBODY})\b"
    rf"|\b(?:human being|real person|actual person|live person|an ai|any human|a human|a bot)\b[^.!?]*\?"
    rf"|\b(?:is|was) (?:there )?(?:{SOMEBODY}|anybody|anyone) (?:there|alive|reading|behind)\b"
    r"|\bdo you have (?:a body|feelings|a consciousness|a pulse)\b|\bbeing human\?|\bborn or (?:were you )?(?:programmed|made|built)\b",
    re.IGNORECASE,
)
QUOTED = re.compile(r"\A\s*[\"“«].*[\"”»]\s*\Z", re.DOTALL)


class Choices(Strict):
    personas: Annotated[int, Field(ge=2)] | None
    seeds: Annotated[list[int], Field(min_length=1)] | None
    formal_history: Share
    rows_per_dialogue: Annotated[int, Field(ge=1)]
    first_turns: Share
    held_out: Annotated[float, Field(gt=0, lt=1)]
    length_ratio: Annotated[float, Field(ge=1)]
    cards: str | None
    facts: bool
    judge: str | None


class Cards(Strict):
    cards: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]


def read_choices(path: Path, profile: str) -> tuple[Choices, list[list[str]]]:
    """(settings, cards) of a profile; one that the file does not name has the settings of the file itself. Raises UserError that names every fault."""
    values = read_yaml(path, "settings of preference pairs from dialogues")
    profiles = values.pop("profiles", None) or {}
    try:
        choices = Choices(**merge(values, profiles.get(profile, {})))
    except ValidationError as error:
        raise UserError(f"{path}, profile {profile}: " + "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())) from None
    if not choices.cards:
        return choices, [[]]
    try:
        return choices, Cards(**read_yaml(Path(choices.cards), "cards of the friend")).cards
    except ValidationError as error:
        raise UserError(f"{choices.cards}: " + "; ".join(map(fault, error.errors()))) from None


def drawn(*key: object) -> float:
    """A number from 0 to 1 that depends on the key alone."""
    return int(sha256("\0".join(map(str, key)))[:12], 16) / 16**12


def asks_what_it_is(text: str) -> bool:
    return bool(WHAT_ARE_YOU.search(plain(text)))


# ---------------------------------------------------------------- two answers a turn


@dataclass
class Asked:
    """Both answers to one history."""

    messages: list[dict]
    chosen: Reply
    rejected: Reply
    clash: list[str]  # slots of facts in which the chosen answer contradicts card or ledger
    unsafe: bool


@dataclass
class Friend:
    """Stands where the responder's client stands: asks the model of `answers` twice, and hands on the answer that this dialogue reads on."""

    client: Client
    model: str
    data: config.Settings
    settings: Settings
    choices: Choices
    card: list[str]
    formal: bool  # the formal answers are what is read on
    guard: play.Voice | None = None
    asked: list[Asked] = field(default_factory=list)
    known: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self):
        self.known = facts(" ".join(self.card))
        self.told: list[str] = []

    @property
    def replicas(self):
        return self.client.replicas

    def text(self, name: str) -> str:
        return read_prompt(Path(self.settings.prompts) / "pairs" / f"{name}.txt")

    def prompt(self, style: str) -> str:
        parts = [self.data.prompt(STYLES[style])]
        if style == "chosen" and self.card:
            parts.append(fill(self.text("card"), card=" ".join(self.card)))
        if style == "chosen" and self.told:
            parts.append(fill(self.text("facts"), facts=" ".join(self.told)))
        return "\n\n".join(parts)

    async def one(self, style: str, request: Request) -> Reply:
        messages = [("system", self.prompt(style)), *request.messages]
        return (await self.client.reply(Request.of(self.data.answers, self.model, messages, self.data.seed, sample=request.sample))).spoken()

    async def contradicts(self, answer: str) -> list[str]:
        if not answer or not (self.card or self.told):
            return []
        clash = contradictions(self.known, answer)
        if self.choices.judge and not clash:
            said = fill(self.text("consistent"), facts=" ".join([*self.card, *self.told]), answer=answer)
            verdict = await self.client.reply(Request(self.choices.judge, (("user", said),), 0.0, 1.0, 256))
            if re.findall(r"[a-z]+", verdict.spoken().text.casefold())[:1] == ["yes"]:
                return ["by the judge"]
        return clash

    async def reply(self, request: Request) -> Reply:
        chosen, rejected = await asyncio.gather(*(self.one(style, request) for style in STYLES))
        watch = play.Watch(self.guard)
        said = next(content for role, content in reversed(request.messages) if role == "user")
        unsafe = [await watch.objects(0, ("user", said), ("assistant", reply.text)) for reply in (chosen, rejected) if reply.text.strip()]
        clash = await self.contradicts(chosen.text)
        self.asked.append(Asked([{"role": role, "content": text} for role, text in request.messages], chosen, rejected, clash, any(unsafe)))
        if not self.formal:
            new = {slot: fact for slot, fact in facts(chosen.text).items() if slot not in self.known}
            self.known |= new
            if self.choices.facts:
                self.told += [said for _, said in new.values() if said not in self.told]
        return rejected if self.formal else chosen


# ---------------------------------------------------------------- rows


def why_not(asked: Asked, dialogue: Dialogue, data: config.Settings, choices: Choices, stop: str) -> str | None:
    """The first reason for which a pair cannot be trained on, or None."""
    if any(asks_what_it_is(message["content"]) for message in asked.messages if message["role"] == "user"):
        return "asks what it talks with"
    filters = data.filters.model_copy(update={"length_ratio": choices.length_ratio})
    if reason := reason_against(asked.messages[-1]["content"], asked.chosen, asked.rejected, filters, [data.prompt(name) for name in STYLES.values()]):
        return reason
    texts = asked.chosen.text, asked.rejected.text
    checks = {
        "unsafe by the guard": asked.unsafe,
        "marker of another speaker": any(detect.MARKER.search(text) for text in texts),
        "stop word": any(re.search(rf"\b{stop}\b", text) for text in texts),
        "quotes around the whole": any(QUOTED.match(text) for text in texts),
        "loop": any(map(detect.repeats, texts)),
        "contradicts what the friend has said": asked.clash,
        "incoherent dialogue": dialogue.end_reason.endswith("_incoherent"),
    }
    return next((reason for reason, applies in checks.items() if applies), None)


def rows_of(dialogue: Dialogue, friend: Friend) -> list[dict]:
    """One row a turn, in order, with `reason` where it cannot be trained on."""
    made = []
    for turn, asked in enumerate(friend.asked):
        row = {"id": f"{dialogue.id}-{turn}", "kind": "dialogue", "prompt": asked.messages, "chosen": asked.chosen.text.strip(), "rejected": asked.rejected.text.strip()}
        row |= {"dialogue": dialogue.id, "persona": dialogue.persona.id, "turn": turn, "history": "formal" if friend.formal else "chosen"}
        if reason := why_not(asked, dialogue, friend.data, friend.choices, friend.settings.stop):
            row["reason"] = reason
        made.append(row)
    return made


def held_out(personas: list[str], share: float) -> set[str]:
    """The personas whose dialogues are for validation: those of the smallest hashes, at least one and never all. Raises UserError for fewer than two."""
    if len(set(personas)) < 2:
        raise UserError("all dialogues are of one persona, so none can be held out; set personas: count in the config, or `personas` in prefer.yaml, to two or more")
    order = sorted(set(personas), key=sha256)
    return set(order[: min(len(order) - 1, max(1, round(share * len(order))))])


def select(rows: list[dict], choices: Choices) -> tuple[list[dict], list[dict]]:
    """(accepted, rejected) rows in their order: gates, equal histories, rows a dialogue, share of first turns. Which rows go is drawn by hash."""
    out: dict[str, str] = {row["id"]: row["reason"] for row in rows if "reason" in row}
    left = [row for row in rows if "reason" not in row]
    seen: set[str] = set()
    for row in left:
        if (key := canonical(row["prompt"])) in seen:
            out[row["id"]] = "the same history twice"
        seen.add(key)
    counts: Counter[str] = Counter()
    by_hash = sorted((row for row in left if row["id"] not in out), key=lambda row: (row["turn"] > 0, sha256(row["id"])))  # first turns before all others
    kept = []
    for row in by_hash:
        counts[row["dialogue"]] += 1
        if counts[row["dialogue"]] > choices.rows_per_dialogue:
            out[row["id"]] = "over the rows of a dialogue"
        else:
            kept.append(row)
    first = sum(row["turn"] == 0 for row in kept)
    most = int(first / choices.first_turns + 1e-9) - first if choices.first_turns else len(kept)
    for row in [row for row in kept if row["turn"] > 0][most:]:
        out[row["id"]] = "over the share of later turns"
    validation = held_out([row["persona"] for row in rows], choices.held_out)
    accepted = [row | {"split": "val" if row["persona"] in validation else "train"} for row in rows if row["id"] not in out]
    return accepted, [row | {"reason": out[row["id"]]} for row in rows if row["id"] in out]


def summary(accepted: list[dict], rejected: list[dict], dialogues: list[Dialogue]) -> dict:
    """The ledger. Lengths are compared by dialogue: turns of one are alike."""
    reasons = Counter(row["reason"] for row in rejected)
    found = {"asked": len(accepted) + len(rejected), "accepted": len(accepted), "reasons": dict(sorted(reasons.items()))}
    assert found["asked"] == found["accepted"] + sum(reasons.values()), found
    found["dialogues"] = {
        "made": len(dialogues),
        "ended": dict(Counter(d.end_reason for d in dialogues).most_common()),
        "with rows": len({r["dialogue"] for r in accepted}),
    }
    found["turns"] = {str(turn): n for turn, n in sorted(Counter(row["turn"] for row in accepted).items())}
    found["history"] = dict(Counter(row["history"] for row in accepted))
    for part in ("train", "val"):
        rows = [row for row in accepted if row["split"] == part]
        found[part] = {"rows": len(rows), "dialogues": len({row["dialogue"] for row in rows}), "personas": len({row["persona"] for row in rows})}
    gaps: dict[str, list[int]] = {}
    for row in accepted:
        gaps.setdefault(row["dialogue"], []).append(words(row["chosen"]) - words(row["rejected"]))
    means = np.array([np.mean(each) for each in gaps.values()])
    if len(means):
        found["words, chosen less rejected"] = {"mean": float(means.mean()), "interval": list(bootstrap(means)), "dialogues": len(means)}
    return found


# ---------------------------------------------------------------- the run


async def make(settings: Settings, data: config.Settings, choices: Choices, cards: list[list[str]], store: Path) -> tuple[list[tuple[Dialogue, Friend]], dict]:
    """([(dialogue, its friend) …] in the order of the plan, usage)."""
    plan, tones = settings.plan()
    async with Clients(settings, store) as clients, Client(data.endpoint, store, prices=data.prices) as client:
        inquirer = await clients.voice("inquirer", settings.inquirer)
        guard = await clients.voice("guard", settings.guard) if settings.guard else None
        everyone = [client, *clients.clients.values()]
        for one in everyone:
            one.share_budget([other for other in everyone if other is not one])
        model = await client.resolve(data.answers.model)
        made: dict[str, tuple[Dialogue, Friend]] = {}
        rest = iter(plan)
        noted = versions()

        async def work() -> None:
            for persona, goal, seed in rest:
                name = dialogue_id(persona, goal, seed)
                card = cards[int(drawn("card", name) * len(cards))]
                friend = Friend(client, model, data, settings, choices, card, drawn("history", name) < choices.formal_history, guard)
                cast = play.Cast(settings, tones, inquirer, play.Voice(friend, model, settings.responder), None, noted)
                made[name] = (await play.converse(persona, goal, seed, cast), friend)
                client.meter.progress("dialogues", len(made), len(plan), len(client.running))

        workers = [asyncio.create_task(work()) for _ in range(min(settings.endpoint.concurrency, len(plan)))]
        try:
            await asyncio.gather(*workers)
        finally:  # what is being answered is paid for, so it is waited for and stored
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await client.settle()
        client.meter.progress("dialogues", len(made), len(plan), 0, final=True)
        usage = {"answers": client.meter.as_json()} | clients.usage()
        return [made[dialogue_id(*key)] for key in plan], usage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=PATH, help="of the dialogues")
    parser.add_argument("--choices", type=Path, default=CHOICES, help="of the pairs")
    parser.add_argument("--profile", default="paper", help="of both, and of datagen/config.yaml")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all sets of dialogues (default: data/roleplay)")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings, data = load(args.config, args.profile), config.load(args.profile)
    choices, cards = read_choices(args.choices, args.profile)
    # What the responder's own settings say of a system prompt does not count: the two answers have theirs.
    own = {"responder": settings.responder.model_copy(update={"system": False})}
    if choices.seeds:
        own["seeds"] = choices.seeds
    if choices.personas:
        if settings.personas.use != "sample":
            raise UserError(f"{args.choices}: personas counts those of a sample, and {args.config} has personas: use: {settings.personas.use}; set it to null")
        own["personas"] = settings.personas.model_copy(update={"count": choices.personas})
    settings = settings.model_copy(update=own)
    held_out([persona.id for persona, _, _ in settings.plan()[0]], choices.held_out)  # before anything is paid for
    folder = args.out / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"roleplay-{settings.name}.jsonl"
    with locked(folder):
        made, usage = asyncio.run(make(settings, data, choices, cards, args.store))
        accepted, rejected = select([row for dialogue, friend in made for row in rows_of(dialogue, friend)], choices)
        ledger = summary(accepted, rejected, [dialogue for dialogue, _ in made])
        with atomic(path.with_suffix(".dialogues.jsonl")) as file:
            file.writelines(line(dialogue) for dialogue, _ in made)
        write_jsonl(path.with_suffix(".rejects.jsonl"), rejected)
        write_json(path.with_suffix(".ledger.json"), ledger | {"usage": usage, "choices": choices.model_dump()})
        reasons = ", ".join(f"{n} {reason}" for reason, n in ledger["reasons"].items()) or "none"
        if not ledger["train"]["rows"] or not ledger["val"]["rows"]:
            raise UserError(f"no pair was accepted to train on, or none to hold out (rejected: {reasons}); see {path.with_suffix('.rejects.jsonl')}")
        write_jsonl(path, accepted)
    print(
        f"{len(accepted)} pairs in {path} from {ledger['asked']} turns of {len(made)} dialogues; "
        f"{ledger['train']['rows']} to train on, {ledger['val']['rows']} of {ledger['val']['personas']} other personas; rejected: {reasons}"
    )
    gap = ledger["words, chosen less rejected"]
    print(f"words, chosen less rejected: {gap['mean']:+.1f} [{gap['interval'][0]:+.1f}, {gap['interval'][1]:+.1f}], {gap['dialogues']} dialogues")


if __name__ == "__main__":
    entry(main)
