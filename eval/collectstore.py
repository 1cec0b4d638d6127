"""Keeps natural dialogues: who works on which goal, each message exactly once, and the dialogues in the record format of role-played ones.

    python -m eval.collectstore --study eval/collection.yaml        # freezes the design; `make collect` does it first
    python -m eval.collectstore --dialogues out/collect/NAME        # writes dialogues.jsonl and personas.yaml anew from the events; also while the page runs

The store is that of `eval.votes`: one event a line, on disk before anything is confirmed, and all else made anew from the events. Its own events:

  goal      a person begins a goal: token of the dialogue, goal, position, persona (id) and index among the people with that persona
  said      a message of the person: token, turn from 0, id (made by the browser, so that sending it twice is sending it once), text
  replied   the responder's answer to it, as in the record, and its model
  ended     finished (the person says so), given_up, or max_turns (the limit was reached and the goal was not)

`dialogues.jsonl` holds every ended dialogue of people who did not withdraw, in the format of `datagen.roleplay.record`: the inquirer is the model `human`, and
`personas.yaml` lists the people as `personas: {use: list, given: …}` of the roleplay settings wants them, so that the simulated dialogues are of the same
persons (id and index) and goals.
"""

import argparse
import functools
import json
import secrets
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import Field, model_validator

from datagen.files import UserError, atomic, canonical, entry, read_json, read_jsonl, sha256, write_text
from datagen.roleplay import personas
from datagen.roleplay import settings as roleplay
from datagen.roleplay.record import Attempt, Dialogue, Goal, Persona, Player, Response, Turn, dialogue_id, line
from eval import studyfile
from eval.ballot import keep
from eval.studyfile import Name, Sessions, Text
from eval.votes import Refused, Store, counts, read_events, replayed

PATH = Path("eval/collection.yaml")
RATHER_NOT = "I would rather not say"
LONGEST = 4000  # characters of one message
ENDED = ("finished", "given_up", "max_turns")
HUMAN = Player(endpoint="", model="human", temperature=0.0, top_p=0.0, max_tokens=0)  # a person has no sampling: the zeros say no more than that


class Collection(Sessions):
    roleplay: Text
    profile: Name
    persona: Annotated[dict[str, Text], Field(min_length=1)]
    # Of studies that judge: here nothing is judged, and no message comes too soon.
    gold: ClassVar[tuple] = ()
    gold_every: ClassVar[int] = 1
    careless: ClassVar[None] = None
    common: ClassVar[float] = 0.0
    repeats: ClassVar[int] = 0
    minimum_seconds: ClassVar[float] = 0.0

    @model_validator(mode="before")
    @classmethod
    def with_form(cls, values: dict) -> dict:
        """Adds the form's questions, made from the features of personas, before quotas are checked, which may name them."""
        kinds = {"roleplay": str, "profile": str, "persona": dict, "questionnaire": list}
        if not all(isinstance(values.get(name), kind) for name, kind in kinds.items()):
            return values  # the fields' own checks say what is wrong
        choice = roleplay.load(Path(values["roleplay"]), values["profile"]).personas
        known = personas.checked(personas.Features, Path(choice.file), "features of personas").features
        if unknown := [name for name in values["persona"] if name not in known]:
            raise ValueError(f"persona: {choice.file} has no feature {unknown[0]!r}; it has {', '.join(known)}")
        there = {ask.get("key") for ask in values["questionnaire"] if isinstance(ask, dict)}
        asks = [
            {"key": name, "text": text, "options": [*(option.text for option in known[name].options.values()), RATHER_NOT]}
            for name, text in values["persona"].items()
            if name not in there
        ]
        return values | {"questionnaire": [*values["questionnaire"], *asks]}

    @functools.cached_property
    def rules(self) -> roleplay.Settings:
        """The settings of the simulated dialogues."""
        return roleplay.load(Path(self.roleplay), self.profile)

    @functools.cached_property
    def file(self) -> personas.Features:
        return personas.checked(personas.Features, Path(self.rules.personas.file), "features of personas")


def load(path: Path = PATH) -> Collection:
    """The design, with the form's questions. Raises UserError that names every fault."""
    return studyfile.load(path, Collection)


def freeze(study: Collection, out: Path = Path("out")) -> tuple[Path, dict, bool]:
    """(folder of the collection, its lock, whether anything was written)."""
    goals, _ = personas.read_goals(Path(study.rules.goals.file), study.rules.goals.categories)
    rows = [{"item": goal.id, "question_id": goal.id, "pair": "goal", "kind": "main", "expected": None, "category": goal.category, "text": goal.text} for goal in goals]
    facts = {"responder": study.rules.responder.model_dump(exclude={"base_url", "api_key_env"}), "max_turns": study.rules.max_turns}
    return keep(out / "collect" / study.name, study, rows, {}, facts, False)


# ---------------------------------------------------------------- chats


@dataclass
class Chat:
    token: str
    rater: str
    goal: str
    position: int
    persona: tuple[str, int]  # id, index
    turns: list[dict] = field(default_factory=list)  # id, text, response (None while it is awaited)
    ended: str | None = None
    at: float = 0.0  # of its last event
    model: str = ""  # that gave the last answer, as its endpoint lists it

    @property
    def waiting(self) -> bool:
        return bool(self.turns) and self.turns[-1]["response"] is None


@dataclass(frozen=True)
class View:
    """What a person sees of the open chat."""

    token: str
    goal: str
    turns: list[tuple[str, str | None]]  # (message, answer or None)
    position: int
    total: int
    full: bool  # the limit of turns is reached


def chats_of(events: list[dict]) -> dict[str, Chat]:
    """Every chat by its token. Events count once, whatever the order of their files."""
    chats: dict[str, Chat] = {}
    order = {"goal": 0, "said": 1, "replied": 2, "ended": 3}
    mine = sorted((event for event in events if event["type"] in order), key=lambda event: (order[event["type"]], event.get("turn", 0), event["t"]))
    for event in mine:
        token = event["token"]
        if event["type"] == "goal":
            chats.setdefault(token, Chat(token, event["rater"], event["goal"], event["position"], (event["persona"], event["index"])))
        elif chat := chats.get(token):
            took(chat, event)
    return chats


def took(chat: Chat, event: dict) -> None:
    """What an event does to its chat; one that came before does nothing."""
    chat.at = max(chat.at, event["t"])
    if event["type"] == "said" and event["turn"] == len(chat.turns):
        chat.turns.append({"id": event["id"], "text": event["text"], "response": None})
    elif event["type"] == "replied" and event["turn"] < len(chat.turns) and chat.turns[event["turn"]]["response"] is None:
        chat.turns[event["turn"]]["response"], chat.model = event["response"], event["model"]
    elif event["type"] == "ended" and chat.ended is None:
        chat.ended = event["reason"]


class CollectStore(Store):
    def __init__(self, folder: Path, study: Collection, **more: Any):
        super().__init__(folder, study, **more)
        self.rules = study.rules
        self.chats = chats_of(read_events(folder))
        self.asking: dict[str, threading.Lock] = {}  # one answer at a time for each chat

    def mine(self, rater: str) -> list[Chat]:
        return sorted((chat for chat in self.chats.values() if chat.rater == rater), key=lambda chat: chat.position)

    def persona(self, rater: str) -> dict[str, str]:
        """The features that somebody gave, as the file of personas names them."""
        return given(self._rater(rater)["answers"], self.study)

    def next(self, rater: str) -> View | None:
        """The open chat, or that of a new goal; None when there is no goal left for this person. Raises Refused."""
        self.limit("rater", rater)
        with self.lock:
            if self.stage(rater) != "vote":
                return None
            mine = self.mine(rater)
            chat = next((chat for chat in mine if not chat.ended), None)
            left = self._goals(mine)
            total = len(mine) + min(self.study.per_rater - len(mine), len(left))
            if not chat:
                if len(mine) >= self.study.per_rater or not left:
                    return None
                chat = self._begin(rater, left[0], len(mine) + 1)
            turns = [(turn["text"], turn["response"] and turn["response"]["text"]) for turn in chat.turns]
            return View(chat.token, self.items[chat.goal]["text"], turns, chat.position, total, len(turns) >= self.rules.max_turns and not chat.waiting)

    def _goals(self, mine: list[Chat]) -> list[str]:
        """Goals that somebody has not had, those with the fewest dialogues first; none that has enough."""
        n, had = Counter(chat.goal for chat in self.chats.values() if not self._gone(chat.rater)), {chat.goal for chat in mine}
        left = [goal for goal in self.items if goal not in had and n[goal] < self.study.votes_per_item]
        return sorted(left, key=lambda goal: (n[goal], self.rng.random()))

    def _gone(self, rater: str) -> bool:
        row = self._rater(rater)
        return row is None or row["withdrawn_at"] is not None

    def _begin(self, rater: str, goal: str, position: int) -> Chat:
        name = personas.persona_id(self.persona(rater))
        index = next((chat.persona[1] for chat in self.mine(rater)), None)
        if index is None:
            index = len({chat.rater for chat in self.chats.values() if chat.persona[0] == name})
        token, now = secrets.token_hex(16), self.clock()
        with self._change() as event:
            event("goal", now, rater=rater, token=token, goal=goal, position=position, persona=name, index=index)
        self.chats[token] = Chat(token, rater, goal, position, (name, index), at=now)
        return self.chats[token]

    def _chat(self, rater: str, token: str) -> Chat | None:
        chat = self.chats.get(token)
        return chat if chat and chat.rater == rater and not chat.ended and not self._gone(rater) else None

    def _event(self, chat: Chat, type: str, **values: Any) -> None:
        now = self.clock()
        with self._change() as event:
            event(type, now, rater=chat.rater, token=chat.token, **values)
        took(chat, {"type": type, "t": now} | values)

    def say(self, rater: str, token: str, turn: int, id: str, text: str) -> str:
        """Keeps a message: ok, unknown (no such open chat), elsewhere (the chat has gone on since), full. After `ok` it is on disk; saying it again is ok, too."""
        self.limit("said", rater)
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").encode("utf-8", "replace").decode().strip()
        if not text:
            raise Refused("Please write something first.")
        if len(text) > LONGEST:
            raise Refused(f"A message may have {LONGEST:,} characters; this one has {len(text):,}.")
        with self.lock:
            chat = self._chat(rater, token)
            if chat is None:
                return "unknown"
            if any(said["id"] == id for said in chat.turns):
                return "ok"
            if turn != len(chat.turns) or chat.waiting:
                return "elsewhere"
            if turn >= self.rules.max_turns:
                return "full"
            self._event(chat, "said", turn=turn, id=id, text=text)
        return "ok"

    def reply(self, rater: str, token: str, ask: Any) -> str:
        """Sees to it that the last message has its answer, which `ask(name, exchanges, text, turn)` gives, with its model: ok, or unknown. Raises what `ask` raises."""
        with self.lock:
            lock = self.asking.setdefault(token, threading.Lock())
        with lock:  # a second tab, or a reload, waits for the same answer
            with self.lock:
                chat = self._chat(rater, token)
                if chat is None or not chat.waiting:
                    return "unknown" if chat is None else "ok"
                turn = len(chat.turns) - 1
                exchanges = [(said["text"], said["response"]["text"]) for said in chat.turns[:-1]]
            response, model = ask(f"human-{token}", exchanges, chat.turns[turn]["text"], turn)
            with self.lock:
                if self._chat(rater, token) is None:  # ended or withdrawn in the meantime
                    return "unknown"
                self._event(chat, "replied", turn=turn, response=response.model_dump(), model=model)
        return "ok"

    def end(self, rater: str, token: str, reached: bool) -> str:
        """Ends the chat and writes the dialogues: ok or unknown. Raises Refused for a goal that is said to be reached without a single answer."""
        with self.lock:
            chat = self._chat(rater, token)
            if chat is None:
                return "unknown"
            answered = sum(turn["response"] is not None for turn in chat.turns)
            if reached and not answered:
                raise Refused("Please ask the assistant first.")
            self._event(chat, "ended", reason="finished" if reached else "max_turns" if answered >= self.rules.max_turns else "given_up")
        write(self.folder, self.study)
        return "ok"

    def withdraw(self, code: str, address: str = "") -> bool:
        found = super().withdraw(code, address)
        if found:
            write(self.folder, self.study)
        return found

    def organise(self, token: str, action: str, address: str = "") -> dict:
        found = {name: value for name, value in super().organise(token, action, address).items() if "votes" not in name}
        ended = Counter(chat.ended for chat in self.chats.values() if chat.ended and not self._gone(chat.rater))
        return found | {"dialogues wanted": len(self.items) * self.study.votes_per_item} | {f"dialogues {reason}": ended[reason] for reason in ENDED}


# ---------------------------------------------------------------- the record


def given(answers: str | None, study: Collection) -> dict[str, str]:
    """Features of a persona from the answers to the form, in the order of the file."""
    said = json.loads(answers or "{}")
    found = {}
    for name, feature in study.file.features.items():
        if name in study.persona and said.get(name) not in (None, RATHER_NOT):
            found[name] = next(option for option, one in feature.options.items() if one.text == said[name])
    return found


def attempt(text: str) -> Attempt:
    """A person's message in the place of a model's output: nothing was extracted, nothing can have failed."""
    nothing = {"prompt_strict": None, "found": None, "found_strict": None, "stop": False, "failure": None, "self_reply": [], "stop_failure": False}
    nothing |= {"repeats_strict": False, "repeats": False, "usage": {}, "seed": None, "temperature": 0.0, "top_p": 0.0, "dropped": 0}
    return Attempt(raw=text, text=text, prompt=text, finish="stop", **nothing)


def records(folder: Path, study: Collection) -> tuple[list[Dialogue], list[dict[str, str]]]:
    """(every ended dialogue of those who did not withdraw, by time; the features of each person, in an order that gives them their index)."""
    events = sorted(read_events(folder), key=lambda event: event["t"])
    rules, db = study.rules, replayed(folder)
    answers = {row["rater"]: row["answers"] for row in db.execute("SELECT rater, answers FROM rater WHERE withdrawn_at IS NULL")}
    db.close()
    chats = [chat for chat in chats_of(events).values() if chat.rater in answers]
    items = {item["item"]: item for item in read_jsonl(folder / "items.jsonl", "the frozen goals of a collection")}
    role = rules.responder
    sampling = {"temperature": role.temperature, "top_p": role.top_p, "max_tokens": role.max_tokens}
    made = []
    for chat in sorted((chat for chat in chats if chat.ended), key=lambda chat: (chat.at, chat.token)):
        chosen = given(answers[chat.rater], study)
        persona = Persona(id=chat.persona[0], index=chat.persona[1], features=chosen, text=personas.describe(study.file, chosen))
        goal = Goal(id=chat.goal, category=items[chat.goal]["category"], text=items[chat.goal]["text"])
        answered = [turn["response"] is not None for turn in chat.turns]
        turns = [
            Turn(t=t, attempts=[attempt(turn["text"])], response=Response(**turn["response"]) if turn["response"] else None, complete=done)
            for t, (turn, done) in enumerate(zip(chat.turns, answered, strict=True))
        ]
        shape = sha256(canonical({"collection": study.settings(), "responder": rules.responder.model_dump(exclude={"base_url", "api_key_env"})}))[:16]
        values = {"id": dialogue_id(persona, goal, study.seed), "seed": study.seed, "settings": shape, "persona": persona, "goal": goal, "inquirer": HUMAN}
        responder = Player(endpoint="", model=chat.model, **sampling)
        made.append(Dialogue(**values, responder=responder, turns=turns, end_reason=chat.ended, end_detail="", guard=None, versions={"collection": study.name}))
    # Equal personas are told apart by their index, which a list gives by counting: who withdrew keeps their place in it by the features of the others.
    most: dict[str, int] = {}
    known = {chat.persona[0]: given(answers[chat.rater], study) for chat in chats}
    for chat in chats:
        most[chat.persona[0]] = max(most.get(chat.persona[0], 0), chat.persona[1] + 1)
    return made, [known[name] for name in sorted(known) for _ in range(most[name])]


WRITING = threading.Lock()


def write(folder: Path, study: Collection) -> list[Dialogue]:
    """Writes dialogues.jsonl and personas.yaml, each whole or not at all."""
    with WRITING:
        made, people = records(folder, study)
        with atomic(folder / "dialogues.jsonl") as file:
            file.writelines(map(line, made))
        text = "# The people of this collection, for `personas:` of datagen/roleplay/config.yaml: their simulated dialogues have the same ids.\n"
        write_text(folder / "personas.yaml", text + yaml.safe_dump({"use": "list", "given": people}, sort_keys=False, allow_unicode=True))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=PATH)
    parser.add_argument("--dialogues", type=Path, metavar="FOLDER", help="write the dialogues of out/collect/NAME anew instead of freezing")
    args = parser.parse_args()
    study = load(args.study)
    if args.dialogues:
        if read_json(args.dialogues / "study.lock.json")["study"] != study.name:
            raise UserError(f"{args.dialogues} is not the collection {study.name!r} of {args.study}; name its settings (--study)")
        made = write(args.dialogues, study)
        ends = Counter(dialogue.end_reason for dialogue in made)
        print(f"{args.dialogues / 'dialogues.jsonl'}: {len(made)} dialogues; {', '.join(f'{n} {reason}' for reason, n in ends.items()) or 'none ended yet'}")
        for name, n in counts(replayed(args.dialogues)).items():
            if "votes" not in name:
                print(f"{n:7,} {name}")
        return
    folder, lock, written = freeze(study)
    print(f"{folder}: {lock['max_turns']} turns at most; {'frozen' if written else 'was frozen already, and nothing has changed'}")


if __name__ == "__main__":
    entry(main)
