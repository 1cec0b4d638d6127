"""Freezes a detection study before its first answer: which dialogues make a pair, who sees which pair, and on which side.

    python -m eval.detectdesign --study eval/detection.yaml      # reads the dialogues that the design names

A pair is a natural and a simulated dialogue of the same persona and goal (LLM Roleplay, arXiv 2407.03974, section 3.4). Written to `out/detect/<name>/`, with the
checks of `eval.ballot`: nothing can change after the first answer, and run again with nothing changed this does nothing.

  items.jsonl       all that the page reads: item, question_id (person and goal), pair (the model), kind (main, gold), text_a, text_b ([[who, text], …]), expected
                    (gold: the artificial one), slots (the lists that it stands in), left (a or b, for each of them)
  key.json          item -> model, person, goal, category, which of a and b is natural and which simulated, how many utterances each has, seed of the run
  study.lock.json   hashes of the settings, the dialogues and both files, the settings themselves, what was left out and why

Who sees which pair. Persons u, goals g and models m are numbered; participant (u + a g + b m) mod P gets the pair (u, g, m), so two pairs of one person and goal
never meet as long as P is no smaller than the number of models. a and b are those with which every participant gets most evenly of models, persons, goals
and goals by model. With the paper's 20 persons, 10 goals, 4 models and 20 participants everybody gets 40 pairs, 10 of each model, 4 of each goal, each goal
with each model once, and each person twice. Sides: the artificial dialogue stands left as often as right for each participant, model and person, as far as that can be.
"""

import argparse
import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from datagen.config import Strict
from datagen.files import UserError, entry, sha256
from datagen.roleplay.record import Dialogue, read
from eval.ballot import keep
from eval.studyfile import Count, Name, Sessions, Text, load, unique

PATH = Path("eval/detection.yaml")
SEARCHED = 4000  # pairs (a, b) that are looked at, by lot where there are more
KEYS = ("natural", "simulated")
Exchange = Annotated[list[Text], Field(min_length=2, max_length=2)]


class Check(Strict):
    """An attention check: two short dialogues, as [prompt, answer] pairs."""

    goal: Text
    natural: Annotated[list[Exchange], Field(min_length=1)]
    simulated: Annotated[list[Exchange], Field(min_length=1)]

    @property
    def question(self) -> str:
        return self.goal

    @model_validator(mode="after")
    def differ(self):
        if self.natural == self.simulated:
            raise ValueError("both dialogues are the same")
        return self


class Detection(Sessions):
    natural: Text
    simulated: Annotated[dict[Name, Text], Field(min_length=1)]
    participants: Count
    hold_hours: Annotated[float, Field(gt=0)]
    margin: Annotated[float, Field(gt=0, lt=0.5)]
    gold: list[Check]
    # Of the sessions of eval.votes, which ask for them: no item is common, none is shown again, and "not sure" can always be said.
    common: ClassVar[float] = 0.0
    repeats: ClassVar[int] = 0
    ties: ClassVar[bool] = True
    scale: ClassVar[str] = "choice"

    @field_validator("simulated")
    @classmethod
    def files_once(cls, simulated: dict[str, str]) -> dict[str, str]:
        unique(list(simulated.values()), "file")
        return simulated

    @field_validator("participants")
    @classmethod
    def enough_participants(cls, participants: int, info: ValidationInfo) -> int:
        least = len(info.data.get("simulated", ())) * info.data.get("votes_per_item", 1)
        if participants < least:
            raise ValueError(f"{participants} participants cannot see {least} pairs of one person and goal without one of them seeing two")
        return participants


# ---------------------------------------------------------------- dialogues


def person_of(dialogue: Dialogue) -> str:
    """Two equal personas are two persons: they are told apart by their index."""
    return f"{dialogue.persona.id}-{dialogue.persona.index}"


def by_person_and_goal(path: Path, left_out: Counter, who: str) -> dict[tuple[str, str], Dialogue]:
    """The first dialogue, by seed, of each person and goal that can be shown."""
    found: dict[tuple[str, str], Dialogue] = {}
    for dialogue in sorted(read(path), key=lambda one: one.seed):
        place = (person_of(dialogue), dialogue.goal.id)
        if not dialogue.exchanges:
            left_out[f"{who}: no complete turn"] += 1
        elif dialogue.end_reason == "toxic":
            left_out[f"{who}: called unsafe"] += 1
        elif place in found:
            left_out[f"{who}: another seed"] += 1
        else:
            found[place] = dialogue
    return found


def utterances(exchanges: list) -> list[list[str]]:
    return [[who, text] for exchange in exchanges for who, text in zip(("inquirer", "responder"), exchange, strict=True)]


def pairs(study: Detection) -> tuple[list[tuple[str, Dialogue, Dialogue]], Counter]:
    """(model, natural, simulated) of each pair, in a fixed order; what was left out, by reason. Raises UserError where none is left or a goal differs."""
    left_out: Counter = Counter()
    natural = by_person_and_goal(Path(study.natural), left_out, "natural")
    made, used = [], set()
    for model, path in study.simulated.items():
        simulated = by_person_and_goal(Path(path), left_out, model)
        for place in sorted(simulated):
            if place not in natural:
                left_out[f"{model}: no natural dialogue of this person and goal"] += 1
            elif natural[place].goal.text != simulated[place].goal.text:
                raise UserError(f"{path}: the goal {place[1]!r} has another text than in {study.natural}; pairs must have the same goal")
            else:
                used.add(place)
                made.append((model, natural[place], simulated[place]))
    left_out["natural: no simulated dialogue of this person and goal"] += len(set(natural) - used)
    if not made:
        raise UserError(
            f"no natural dialogue has a simulated one of the same person and goal ({', '.join(f'{n} {why}' for why, n in (+left_out).items()) or 'no dialogues'})"
        )
    return made, +left_out


# ---------------------------------------------------------------- assignment


def numbered(values: list) -> np.ndarray:
    return np.unique(np.array(values), return_inverse=True)[1]


def assign(persons: list[str], goals: list[str], models: list[str], participants: int, seed: int) -> np.ndarray:
    """[pairs] the list, 0 … participants - 1, of each pair. `models` names each copy of a pair apart. See the module's docstring."""
    u, g, m = numbered(persons), numbered(goals), numbered(models)
    steps = list(itertools.product(range(participants), range(1, max(2, participants))))
    if len(steps) > SEARCHED:
        steps = random.Random(seed).sample(steps, SEARCHED)
    sizes = [(np.zeros_like(u), 1), (u, u.max() + 1), (g, g.max() + 1), (m, m.max() + 1), (g * (m.max() + 1) + m, (g.max() + 1) * (m.max() + 1))]
    cells = u * (g.max() + 1) + g

    def uneven(step: tuple[int, int]) -> tuple[int, int, int]:
        """(pairs of one person and goal that meet, sum of squares over participants of what each gets of everything, and the total's own)."""
        at = (u + step[0] * g + step[1] * m) % participants
        meet = len(at) - len(np.unique(at * (cells.max() + 1) + cells))
        squares = [int((np.bincount(at * size + codes, minlength=participants * size) ** 2).sum()) for codes, size in sizes]
        return meet, sum(squares), squares[0]

    best = min(steps, key=lambda step: (*uneven(step), step))
    if uneven(best)[0]:
        raise UserError(f"no list for {participants} participants keeps pairs of one person and goal apart; raise participants")
    return (u + best[0] * g + best[1] * m) % participants


def left_sides(margins: list[list], seed: int) -> list[bool]:
    """[pairs] whether the simulated dialogue stands left: as often as not within every group of each of `margins`, a list of labels [pairs] each."""
    codes = [numbered(margin) for margin in margins]
    sums = [np.zeros(code.max() + 1, int) for code in codes]
    n = len(codes[0])
    side = np.zeros(n, int)
    order = random.Random(seed).sample(range(n), n)
    for turn in range(20):  # the first turn gives sides, the others turn round what makes the groups more even
        changed = 0
        for i in order:
            lean = sum(int(total[code[i]]) - side[i] for total, code in zip(sums, codes, strict=True))
            new = side[i] if side[i] and lean * side[i] <= 0 else -1 if lean > 0 else 1
            changed += new != side[i]
            for total, code in zip(sums, codes, strict=True):
                total[code[i]] += new - side[i]
            side[i] = new
        if turn and not changed:
            break
    return (side > 0).tolist()


# ---------------------------------------------------------------- freezing


def item(study: Detection, kind: str, model: str, place: str, texts: dict[str, list]) -> tuple[dict, dict]:
    """(a row of items.jsonl but its lists, its entry in key.json). a is the dialogue whose hash, under the study's seed, is smaller: it tells nothing."""
    a, b = sorted(texts, key=lambda who: sha256(f"{study.seed}:{model}:{place}:{texts[who]}"))
    row = {
        "item": sha256(f"{study.seed}:item:{kind}:{model}:{place}")[:12],
        "question_id": sha256(f"{study.seed}:place:{place}")[:12],
        "pair": model,
        "kind": kind,
        "question": "",
        "text_a": texts[a],
        "text_b": texts[b],
        "expected": ("a" if a == "simulated" else "b") if kind == "gold" else None,
        "slots": [],
        "left": [],
    }
    return row, {"kind": kind, "model": model if kind == "main" else None, "a": a, "b": b, "utterances": {"a": len(texts[a]), "b": len(texts[b])}}


def build(study: Detection) -> tuple[list[dict], dict, dict]:
    """(rows of items.jsonl, key.json, what study.lock.json says of the dialogues). Raises UserError where a list is longer than per_rater."""
    found, left_out = pairs(study)
    rows, key = {}, {}
    for model, natural, simulated in found:
        texts = {"natural": utterances(natural.exchanges), "simulated": utterances(simulated.exchanges)}
        row, sides = item(study, "main", model, f"{person_of(natural)}:{natural.goal.id}", texts)
        rows[row["item"]] = row
        key[row["item"]] = sides | {"person": person_of(natural), "goal": natural.goal.id, "category": natural.goal.category, "seed": simulated.seed}
    copies = [(name, copy) for name in rows for copy in range(study.votes_per_item)]
    of = [key[name] for name, _ in copies]
    models = [f"{one['model']}:{copy}" for one, (_, copy) in zip(of, copies, strict=True)]
    lists = assign([one["person"] for one in of], [one["goal"] for one in of], models, study.participants, study.seed).tolist()
    both = [f"{slot}:{one['model']}" for slot, one in zip(lists, of, strict=True)]
    left = left_sides([lists, both, [one["model"] for one in of], [one["person"] for one in of]], study.seed)
    for (name, _), slot, simulated_left in zip(copies, lists, left, strict=True):
        rows[name]["slots"].append(slot)
        rows[name]["left"].append(next(side for side in "ab" if (key[name][side] == "simulated") == simulated_left))
    longest = max(Counter(lists).values())
    if longest > study.per_rater:
        raise UserError(
            f"{len(copies)} answers from {study.participants} participants are up to {longest} each, and per_rater is {study.per_rater}; raise one of the two"
        )
    for check in study.gold:
        texts = {name: utterances(getattr(check, name)) for name in KEYS}
        row, sides = item(study, "gold", "gold", f"gold:{check.goal}", texts)
        rows[row["item"]], key[row["item"]] = row, sides | {"person": None, "goal": None, "category": None, "seed": None}
    per_list = Counter(lists)
    facts = {
        "dialogues": {path: sha256(Path(path).read_bytes()) for path in [study.natural, *study.simulated.values()]},
        "left out": dict(sorted(left_out.items())),
        "items": dict(Counter(one["kind"] for one in key.values())),
        "pairs of a participant": [min(per_list.get(slot, 0) for slot in range(study.participants)), longest],
        "pairs of a model": dict(sorted(Counter(one["model"] for one in key.values() if one["model"]).items())),
    }
    return [rows[name] for name in sorted(rows)], key, facts


def freeze(study: Detection, out: Path = Path("out"), simulated: bool = False) -> tuple[Path, dict, bool]:
    """(folder of the study, its lock, whether anything was written). simulated: its participants are no people."""
    return keep(out / "detect" / study.name, study, *build(study), simulated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=PATH)
    args = parser.parse_args()
    study = load(args.study, Detection)
    folder, lock, written = freeze(study)
    for why, n in lock["left out"].items():
        print(f"left out: {n} dialogues, {why}")
    fewest, most = lock["pairs of a participant"]
    models = ", ".join(f"{n} of {model}" for model, n in lock["pairs of a model"].items())
    print(f"{lock['items']['main']} pairs ({models}) for {study.participants} participants, {fewest} to {most} each")
    print(f"{folder}: {'frozen' if written else 'was frozen already, and nothing has changed'}")


if __name__ == "__main__":
    entry(main)
