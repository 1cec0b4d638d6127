"""Reads personas and goals, strictly, and chooses who talks: all combinations of the features, a sample, a fixed list, or nobody in particular.

    python -m datagen.roleplay.personas --use sample --count 5      # prints descriptions, to be read before they are paid for

A persona is a choice of one option for each feature (arXiv 2407.03974, section 2). Its id is a hash of these choices, whatever their order in the file,
and does not change when another feature is described in other words. Two equal personas of a list are two persons, told apart by their `index`.
"""

import argparse
import itertools
import random
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from datagen.config import Strict, nearest, read_yaml
from datagen.files import UserError, canonical, entry, sha256
from datagen.roleplay.record import Goal, Persona

HERE = Path(__file__).parent
PERSONAS, GOALS = HERE / "personas.yaml", HERE / "goals.yaml"
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Place = Literal["before", "noun", "phrase", "who"]
VOWEL_SOUND = re.compile(r"^(?!uni(?!n)|us[aeiu]|eu|one\b|once\b|ut[ei])[aeiou]|^(hour|honest|heir|honou?r)|^(8|11\b|18\b|80|8\d\b)", re.IGNORECASE)


class Option(Strict):
    text: Text
    place: Place | None = None


class Feature(Strict):
    place: Place
    options: Annotated[dict[Name, Option], Field(min_length=1)]

    @field_validator("options", mode="before")
    @classmethod
    def plain_texts(cls, options: object) -> object:
        return {name: {"text": option} if isinstance(option, str) else option for name, option in options.items()} if isinstance(options, dict) else options


class Features(Strict):
    noun: Text
    features: dict[Name, Feature]


class Category(Strict):
    tone: Literal["demanding", "neutral"]


class GoalText(Strict):
    id: Name
    category: Name
    text: Text


class Goals(Strict):
    categories: dict[Name, Category]
    goals: Annotated[list[GoalText], Field(min_length=1)]

    @model_validator(mode="after")
    def consistent(self) -> "Goals":
        twice = [name for name, n in Counter(goal.id for goal in self.goals).items() if n > 1]
        unknown = sorted({goal.category for goal in self.goals} - set(self.categories))
        if twice or unknown:
            raise ValueError(
                "; ".join([*(f"the goal {name!r} stands twice" for name in twice), *(f"no category {name!r} ({nearest(name, self.categories)})" for name in unknown)])
            )
        return self


class Choice(Strict):
    """Whose dialogues are made: `personas:` of the config."""

    file: str = str(PERSONAS)
    use: Literal["all", "sample", "list", "none"]
    features: Annotated[list[Name], Field(min_length=1)] | None = None  # None: all of the file
    count: Annotated[int, Field(ge=1)] | None = None  # for a sample; for none: how often nobody in particular talks
    seed: int | None = None  # of the sample
    given: list[dict[str, str]] = Field(default_factory=list)  # for use: list

    @model_validator(mode="after")
    def fits(self) -> "Choice":
        faults = []
        if self.use == "sample" and (self.count is None or self.seed is None):
            faults.append("a sample needs count and seed")
        if self.use == "none" and self.count is None:
            faults.append("use: none needs count, the number of dialogues with each goal")
        if (self.use == "list") != bool(self.given):
            faults.append("given is read with use: list, and only then")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def checked(model: type[Strict], path: Path, what: str) -> Strict:
    """A YAML file as `model`. Raises UserError that names every fault at once."""
    try:
        return model(**read_yaml(path, what))
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(map(fault, error.errors()))) from None
    except TypeError as error:  # a key that is no string
        raise UserError(f"{path}: {error}") from None


def fault(error: dict) -> str:
    where, message = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"unknown key {where}"
    hint = "; YAML reads yes, no, on and off as true and false, so put them in quotes" if isinstance(error["input"], bool) else ""
    shown = str(error["input"]) if len(str(error["input"])) <= 60 else str(error["input"])[:57] + "…"
    got = "" if error["type"] in ("missing", "value_error") else f", got {shown!r}{hint}"
    return f"{where}: {message}{got}" if where else message


# ---------------------------------------------------------------- description


def article(words: str) -> str:
    """`a` or `an`, by the sound with which the words begin: an 18-to-24-year-old, a European, an hour."""
    return "an" if VOWEL_SOUND.match(words) else "a"


def joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def describe(file: Features, chosen: dict[str, str]) -> str:
    """The English phrase for a choice of options, features in the order of the file: what stands after "You are "."""
    parts: dict[str, list[str]] = {"before": [], "noun": [], "phrase": [], "who": []}
    for name, feature in file.features.items():
        if name in chosen:
            option = feature.options[chosen[name]]
            parts[option.place or feature.place].append(option.text)
    noun = parts["noun"][0] if parts["noun"] else file.noun
    phrase = " ".join([*parts["before"], noun, *parts["phrase"]])
    return f"{article(phrase)} {phrase}" + (f" who {joined(parts['who'])}" if parts["who"] else "")


# ---------------------------------------------------------------- choice


def persona_id(features: dict[str, str]) -> str:
    return sha256(canonical(features))[:8]


def choose(choice: Choice) -> list[Persona]:
    """The personas of a choice, in its order. A sample is without repetition. Raises UserError that names every fault."""
    path = Path(choice.file)
    file = checked(Features, path, "features of personas")
    names = choice.features if choice.features is not None else list(file.features)
    if unknown := [name for name in names if name not in file.features]:
        raise UserError(f"{path}: there is no feature {unknown[0]!r} ({nearest(unknown[0], file.features)})")
    names = [name for name in file.features if name in names]
    nouns = [name for name in names if any((o.place or file.features[name].place) == "noun" for o in file.features[name].options.values())]
    if len(nouns) > 1:
        raise UserError(f"{path}: {joined(nouns)} both give the noun of the description; one of them needs another place")
    if choice.use == "none":
        drawn = [{}] * choice.count
    elif choice.use == "list":
        faults = []
        for number, entry_ in enumerate(choice.given, 1):
            faults += [f"persona {number}: no feature {name!r} ({nearest(name, names)})" for name in entry_ if name not in names]
            faults += [
                f"persona {number}: {name} has no option {entry_[name]!r} ({nearest(entry_[name], file.features[name].options)})"
                for name in names
                if name in entry_ and entry_[name] not in file.features[name].options
            ]
        if faults:
            raise UserError("personas, given: " + "; ".join(faults))
        drawn = choice.given
    else:
        sizes = [list(file.features[name].options) for name in names]
        drawn = [dict(zip(names, options, strict=True)) for options in itertools.product(*sizes)]
        if choice.use == "sample":
            if choice.count > len(drawn):
                raise UserError(f"personas: a sample of {choice.count} cannot be drawn from {len(drawn)} combinations; lower count, or take use: all")
            # Sorted by id first: the sample does not depend on the order of features or options in the file.
            drawn = random.Random(choice.seed).sample(sorted(drawn, key=persona_id), choice.count)
    seen: Counter[str] = Counter()
    personas = []
    for features in drawn:
        name = persona_id(features)
        personas.append(Persona(id=name, index=seen[name], features=features, text=describe(file, features)))
        seen[name] += 1
    return personas


def read_goals(path: Path, categories: list[str] | None) -> tuple[list[Goal], dict[str, str]]:
    """(goals of the categories, None for all; the tone of each category). Raises UserError that names every fault."""
    file = checked(Goals, path, "goals")
    if unknown := [name for name in categories or () if name not in file.categories]:
        raise UserError(f"{path}: there is no category {unknown[0]!r} ({nearest(unknown[0], file.categories)})")
    wanted = file.categories if categories is None else categories
    goals = [Goal(id=goal.id, category=goal.category, text=goal.text.strip("\n")) for goal in file.goals if goal.category in wanted]
    if not goals:
        raise UserError(f"{path}: no goal belongs to {', '.join(wanted)}")
    return goals, {name: category.tone for name, category in file.categories.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--use", choices=["all", "sample"], default="sample")
    parser.add_argument("--count", type=int, default=5, help="of a sample")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", default=str(PERSONAS))
    args = parser.parse_args()
    if args.count < 1:
        raise UserError(f"--count {args.count}: expected a number from 1 on")
    for persona in choose(Choice(file=args.file, use=args.use, count=args.count, seed=args.seed)):
        print(f"{persona.id}  {persona.text}")


if __name__ == "__main__":
    entry(main)
