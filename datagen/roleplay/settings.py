"""Reads datagen/roleplay/config.yaml strictly: an unknown key, a wrong type or an impossible value stops with every fault named at once.

    python -m datagen.roleplay.settings --profile tiny      # the settings in force, and how many dialogues they make

What each key means stands beside it in the file.
"""

import argparse
import os
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from datagen.config import Endpoint, Sampling, Strict, merge, nearest, read_prompt, read_yaml
from datagen.files import UserError, canonical, entry, sha256
from datagen.prices import OwnPrice
from datagen.roleplay.personas import Choice, choose, read_goals
from datagen.roleplay.personas import fault as said
from datagen.roleplay.record import Goal, Persona

PATH = Path("datagen/roleplay/config.yaml")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
Count = Annotated[int, Field(ge=1)]
# Placeholders of each prompt, and those that it cannot do without.
PLACEHOLDERS = {
    "inquirer_system": (("persona", "stop"), ("persona",)),
    "inquirer_first": (("goal", "form"), ("goal",)),
    "inquirer_first_neutral": (("goal", "form"), ("goal",)),
    "forward": (("response", "form", "reminder"), ("response",)),
    "forward_neutral": (("response", "form", "reminder"), ("response",)),
    "reminder": (("stop",), ("stop",)),
    "form_quotes": ((), ()),
    "form_json": ((), ()),
    "responder_system": ((), ()),
}
FIELD = re.compile(r"\{([a-z_]+)\}")


class Address(Strict):
    base_url: Annotated[str, Field(min_length=1)]
    api_key_env: Annotated[str, Field(pattern=rf"^{VARIABLE.pattern}$")]

    def url(self, part: str) -> str:
        """The address itself. Raises UserError where the variable that should hold it is empty."""
        if not VARIABLE.fullmatch(self.base_url):
            return self.base_url
        if not (found := os.environ.get(self.base_url)):
            raise UserError(f"{part}: {self.base_url} is not set; export it, such as http://127.0.0.1:8000/v1, or write an address under {part}.base_url")
        return found


class Incoherent(Strict):
    max_n: Annotated[int, Field(ge=2)]
    r: Annotated[int, Field(ge=2)]


class Role(Sampling, Address):
    context: Count | None
    fold_system: bool
    extra: dict
    incoherent: Incoherent

    @field_validator("extra")
    @classmethod
    def not_ours(cls, extra: dict) -> dict:
        if taken := sorted(set(extra) & {"model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop", "stream", "n", "response_format"}):
            raise ValueError(f"{', '.join(taken)}: has a key of its own, or would break the dialogue")
        return extra


class Responder(Role):
    system: bool


class GuardModel(Address):
    model: str
    max_tokens: Count


class Load(Strict):
    timeout: Annotated[float, Field(gt=0)]
    concurrency: Count
    retries: Annotated[int, Field(ge=0)]
    requests_per_minute: Count | None
    tokens_per_minute: Count | None


class GoalChoice(Strict):
    file: str
    categories: Annotated[list[str], Field(min_length=1)] | None


class Settings(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
    prompts: str
    seeds: Annotated[list[int], Field(min_length=1)]
    personas: Choice
    goals: GoalChoice
    max_turns: Count
    tries: Annotated[int, Field(ge=0)]
    stop: Annotated[str, Field(pattern=r"^[A-Z]{2,}$")]
    remind_stop: bool
    extraction: Literal["quotes", "json"]
    appreciation_turns: Count | None
    inquirer: Role
    responder: Responder
    guard: GuardModel | None
    endpoint: Load
    prices: dict[str, OwnPrice]

    @field_validator("seeds")
    @classmethod
    def seeds_once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice")
        return seeds

    def client(self, address: Address) -> Endpoint:
        """How to ask one of the endpoints: conversations cannot wait for a batch."""
        return Endpoint(base_url=address.base_url, api_key_env=address.api_key_env, batch=False, **self.endpoint.model_dump())

    def texts(self, tone: str) -> dict[str, str]:
        """The prompts that a dialogue of a tone is made with, by the names of their files without any `_neutral`. Raises UserError that names every file
        that is missing, empty, or holds other placeholders than it is filled with."""
        neutral = "_neutral" if tone == "neutral" else ""
        files = {"inquirer_system": "inquirer_system", "inquirer_first": f"inquirer_first{neutral}", "forward": f"forward{neutral}"}
        files |= {"responder_system": "responder_system"} if self.responder.system else {}
        found, faults = {}, []

        def take(name: str, file: str) -> None:
            path = Path(self.prompts) / f"{file}.txt"
            try:
                found[name] = read_prompt(path)
            except UserError as error:
                faults.append(str(error))
                return
            (known, needed), held = PLACEHOLDERS[file], set(FIELD.findall(found[name]))
            faults.extend(f"{path}: nothing fills {{{field}}} ({nearest(field, known)})" for field in sorted(held - set(known)))
            faults.extend(f"{path}: has no {{{field}}}" for field in needed if field not in held)

        for name, file in files.items():
            take(name, file)
        # Only where a prompt of the user's own asks for them.
        if any("{form}" in text for text in found.values()):
            take("form", f"form_{self.extraction}")
        if self.remind_stop and "{reminder}" in found.get("forward", ""):
            take("reminder", "reminder")
        if faults:
            raise UserError("; ".join(faults))
        return found

    def shape(self, tone: str) -> str:
        """Hash of all that a dialogue of a tone depends on, its persona, goal and seed aside; not of addresses, keys, time-outs or of how many there are."""
        values = self.model_dump(include={"max_turns", "tries", "stop", "remind_stop", "extraction", "appreciation_turns"})
        for part in ("inquirer", "responder", "guard"):
            role = getattr(self, part)
            values[part] = role and role.model_dump(exclude={"base_url", "api_key_env"})
        return sha256(canonical(values | self.texts(tone)))[:16]

    def plan(self) -> tuple[list[tuple[Persona, Goal, int]], dict[str, str]]:
        """(every dialogue to be made, seed by seed; the tone of each category of goals)."""
        personas, (goals, tones) = choose(self.personas), read_goals(Path(self.goals.file), self.goals.categories)
        return [(persona, goal, seed) for seed in self.seeds for persona in personas for goal in goals], tones


def fill(template: str, **values: str) -> str:
    """A template with its placeholders filled in one pass: what is put in is never read again, so a model's `{goal}` stays as it is."""
    return FIELD.sub(lambda field: values.get(field[1], field[0]), template)


def load(path: Path = PATH, profile: str = "paper") -> Settings:
    """The settings of a profile (`paper` is the file itself). Raises UserError that names every fault."""
    values = read_yaml(path, "settings of role-played dialogues")
    profiles = values.pop("profiles", None) or {}
    if profile != "paper" and profile not in profiles:
        raise UserError(f"{path}: there is no profile {profile!r}; profiles are: {', '.join(['paper', *profiles])}")
    try:
        settings = Settings(**merge(values, profiles.get(profile, {})))
    except ValidationError as error:
        raise UserError(f"{path}, profile {profile}: " + "; ".join(map(fault, error.errors()))) from None
    except TypeError as error:  # a key that is no string
        raise UserError(f"{path}: {error}") from None
    plan, tones = settings.plan()
    for tone in sorted({tones[goal.category] for _, goal, _ in plan}):
        settings.texts(tone)
    return settings


def inner(annotation: object) -> type[BaseModel] | None:
    """The model that a field's annotation holds, such as GuardModel of GuardModel | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(inner, get_args(annotation))), None)


def fault(error: dict) -> str:
    if error["type"] != "extra_forbidden":
        return said(error)
    model = Settings
    for part in error["loc"][:-1]:
        model = inner(model.model_fields[part].annotation) if isinstance(part, str) and part in model.model_fields else model
    return f"unknown key {'.'.join(map(str, error['loc']))} ({nearest(str(error['loc'][-1]), model.model_fields)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=PATH)
    parser.add_argument("--profile", default="paper")
    args = parser.parse_args()
    settings = load(args.config, args.profile)
    plan, _ = settings.plan()
    print(yaml.safe_dump(settings.model_dump(), sort_keys=False, allow_unicode=True).strip())
    print(f"# {len(plan)} dialogues of at most {settings.max_turns} turns: at most {2 * settings.max_turns * len(plan):,} requests, repeated outputs and guard aside")


if __name__ == "__main__":
    entry(main)
