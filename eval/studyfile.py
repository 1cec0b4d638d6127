"""Reads the design of a study strictly: an unknown key, a wrong type or an impossible value stops with every fault named at once.

    python -m eval.studyfile --study eval/study.yaml       # checks it, and says what one rater will be asked

What each key means stands beside it in `eval/study.yaml`.
"""

import argparse
import math
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from datagen.config import Strict, nearest, read_yaml
from datagen.files import UserError, entry

PATH = Path("eval/study.yaml")
# Columns of the exported votes: a questionnaire's key stands beside them.
COLUMNS = {
    *("vote", "rater", "item", "question", "question_id", "pair", "kind", "position", "left_is", "choice", "chosen", "seconds", "seconds_server", "seconds_client"),
    *("layout", "input", "received_at", "quiz", "quiz_passed", "gold", "gold_right", "repeat", "tuned_won", "tuned_left"),
}
OPERATIONAL = {"password_env", "admin_env"}  # where secrets are read from; no part of the design, so free to change while a study runs

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
Count = Annotated[int, Field(ge=1)]
Environment = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


def repeated(values: list[str]) -> str | None:
    """The first value that stands twice, white space and case aside."""
    folded = [" ".join(value.split()).casefold() for value in values]
    return next((value for i, value in enumerate(values) if folded[i] in folded[:i]), None)


def unique(values: list[str], what: str) -> None:
    if (twice := repeated(values)) is not None:
        raise ValueError(f"the {what} {twice!r} stands twice")


class Gold(Strict):
    """A pair of which everybody who reads it must see which one a person wrote."""

    question: Text
    human: Text
    machine: Text

    @model_validator(mode="after")
    def differ(self):
        unique([self.human, self.machine], "answer")
        return self


class Quiz(Strict):
    question: Text
    options: Annotated[list[Text], Field(min_length=2)]
    answer: Text

    @model_validator(mode="after")
    def answerable(self):
        unique(self.options, "option")
        if self.answer not in self.options:
            raise ValueError(f"the answer {self.answer!r} is none of the options")
        return self


class Ask(Strict):
    """A question about the rater. `ends` maps options with which the session ends to the text that it then shows."""

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    text: Text
    options: Annotated[list[Text], Field(min_length=2)]
    ends: dict[str, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def possible(self):
        unique(self.options, "option")
        if unknown := sorted(set(self.ends) - set(self.options)):
            raise ValueError(f"ends names {unknown[0]!r}, which is none of the options")
        if set(self.ends) == set(self.options):
            raise ValueError("every option ends the session")
        if self.key in COLUMNS:
            raise ValueError(f"the key {self.key!r} is a column of the exported votes; take another")
        return self


class Careless(Strict):
    """Who is left out of the results that the report shows beside those of everybody."""

    gold_failed: Count | None
    median_seconds: Annotated[float, Field(ge=0)]

    def __str__(self) -> str:
        rules = [f"{self.gold_failed} gold pairs failed or more"] if self.gold_failed else []
        rules += [f"a median time below {self.median_seconds:g} s by the browser's clock"] if self.median_seconds else []
        return ", or ".join(rules) or "nobody is careless"


class Sessions(Strict):
    """What every study has whose raters come to a page, and all that the sessions of `eval.votes.Store` need but what `Study` adds."""

    name: Name
    seed: int
    votes_per_item: Count
    per_rater: Count
    task: Text
    markdown: Literal["text", "rendered"]
    gold_every: Count
    careless: Careless
    minimum_seconds: Annotated[float, Field(ge=0)]
    reserve_minutes: Annotated[float, Field(gt=0)]
    password_env: Environment | None
    admin_env: Environment
    consent: Text
    questionnaire: list[Ask]
    quiz: list[Quiz]
    gold: list[Gold]
    # After the questionnaire, whose keys and options it names.
    quotas: dict[str, dict[str, Annotated[float, Field(gt=0, lt=1)]]]

    @field_validator("questionnaire")
    @classmethod
    def keys_once(cls, asks: list[Ask]) -> list[Ask]:
        unique([ask.key for ask in asks], "key")
        return asks

    @field_validator("quiz", "gold", check_fields=False)  # eval.collect has no gold
    @classmethod
    def questions_once(cls, entries: list) -> list:
        unique([one.question for one in entries], "question")
        return entries

    @field_validator("gold", check_fields=False)
    @classmethod
    def gold_suffices(cls, gold: list[Gold], info: ValidationInfo) -> list[Gold]:
        if {"per_rater", "gold_every"} <= set(info.data):
            every, most = info.data["gold_every"], info.data["per_rater"]
            if len(gold) < most // every:
                raise ValueError(f"one in every {every} of {most} items takes {most // every} gold pairs, and there are {len(gold)}; none is shown twice")
        return gold

    @field_validator("quotas")
    @classmethod
    def quotas_possible(cls, quotas: dict, info: ValidationInfo) -> dict:
        asks = {ask.key: ask for ask in info.data.get("questionnaire", [])}
        for key, shares in quotas.items() if "questionnaire" in info.data else ():
            if key not in asks:
                raise ValueError(f"{key!r} is no key of the questionnaire ({nearest(key, asks)})")
            open_to = set(asks[key].options) - set(asks[key].ends)
            if unknown := sorted(set(shares) - open_to):
                raise ValueError(f"{unknown[0]!r} is no answer to {key!r} with which a session goes on")
            if set(shares) == open_to and sum(shares.values()) < 1:
                raise ValueError(f"the shares of {key!r} add up to {sum(shares.values()):g}: the study could never be filled")
        return quotas

    def settings(self) -> dict:
        """What the study is frozen with: everything but where secrets are read from."""
        return self.model_dump(exclude=OPERATIONAL)


class Study(Sessions):
    runs: Annotated[list[Name], Field(min_length=1)]
    questions: Count | None
    common: Annotated[float, Field(ge=0, le=1)]
    ties: bool
    scale: Literal["choice", "five"]
    emoji: Literal["removed", "kept"]
    repeats: Annotated[int, Field(ge=0)]

    @field_validator("runs")
    @classmethod
    def runs_once(cls, runs: list[str]) -> list[str]:
        unique(runs, "run")
        return runs

    @field_validator("repeats")
    @classmethod
    def repeats_fit(cls, repeats: int, info: ValidationInfo) -> int:
        if repeats >= info.data.get("per_rater", math.inf):
            raise ValueError(f"{repeats} items cannot be repeated when a rater sees {info.data['per_rater']}")
        return repeats

    @property
    def checks(self) -> int:
        """Gold and repeated items of a rater who goes to the end."""
        return self.per_rater // self.gold_every + self.repeats


def load(path: Path = PATH, model: type[Sessions] = Study) -> Sessions:
    """The study of a file. Raises UserError that names every fault."""
    values = read_yaml(path, "the design of a study")
    try:
        return model(**values)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(fault(one, model) for one in error.errors())) from None
    except TypeError as error:  # a key that is no string
        raise UserError(f"{path}: {error}") from None


def inner(annotation: object) -> type[BaseModel] | None:
    """The model that a field's annotation holds, such as Gold of list[Gold]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(inner, get_args(annotation))), None)


def fault(error: dict, model: type[BaseModel] = Study) -> str:
    where, message = ".".join(map(str, error["loc"])), error["msg"]
    if error["type"] == "extra_forbidden":
        for part in error["loc"][:-1]:
            model = inner(model.model_fields[part].annotation) if isinstance(part, str) else model
        return f"unknown key {where} ({nearest(str(error['loc'][-1]), model.model_fields)})"
    if error["type"] == "value_error":
        return f"{where}: {message.removeprefix('Value error, ')}"
    hint = "; YAML reads yes, no, on and off as true and false, so put them in quotes" if isinstance(error["input"], bool) else ""
    shown = str(error["input"]) if len(str(error["input"])) <= 60 else str(error["input"])[:57] + "…"
    return f"{where}: {message[0].lower()}{message[1:]}" + ("" if error["type"] == "missing" else f", got {shown!r}{hint}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=PATH)
    args = parser.parse_args()
    study = load(args.study)
    print(f"{args.study}: study {study.name!r}; pairs: {', '.join(study.runs)}; {len(study.questionnaire)} questions on the rater, {len(study.quiz)} of a quiz")
    golds = study.per_rater // study.gold_every
    print(f"each rater sees at most {study.per_rater} items, {golds} of {len(study.gold)} gold pairs, and {study.repeats} repeated")
    never = " (never: no rater sees so many)" if (study.careless.gold_failed or 0) > golds else ""
    print(f"careless, and left out of the results shown beside those of everybody: {study.careless}{never}")


if __name__ == "__main__":
    entry(main)
