"""Reads datagen/config.yaml strictly: an unknown key, a wrong type or an impossible value stops with every fault named at once.

python -m datagen.config --profile tiny                    # the settings in force
python -m datagen.config --profile tiny --stage questions  # only what that stage's result depends on (used by make)
"""

import argparse
import difflib
import functools
import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datagen.files import UserError, canonical, entry, read_text, sha256
from datagen.prices import OwnPrice

PATH, TOPICS, IDENTITY = Path("datagen/config.yaml"), Path("datagen/topics.yaml"), Path("datagen/identity.yaml")
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Endpoint(Strict):
    base_url: str
    api_key_env: str
    timeout: Annotated[float, Field(gt=0)]
    concurrency: Annotated[int, Field(ge=1)]
    retries: Annotated[int, Field(ge=0)]
    requests_per_minute: Annotated[int, Field(ge=1)] | None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None
    batch: bool

    @property
    def url(self) -> str:
        return os.environ.get("OPENAI_BASE_URL") or self.base_url

    @property
    def key(self) -> str:
        return os.environ.get(self.api_key_env) or ""


class Sampling(Strict):
    model: str
    temperature: Annotated[float, Field(ge=0)]
    top_p: Share
    max_tokens: Annotated[int, Field(ge=1)]


class Questions(Sampling):
    count: Annotated[int, Field(ge=1)]
    conversational: Share
    held_out: Annotated[int, Field(ge=0)]
    per_request: Annotated[int, Field(ge=1)]
    requests_per_round: Annotated[int, Field(ge=1)]
    topics: Annotated[int, Field(ge=0)]
    examples: Annotated[int, Field(ge=0)]
    near_duplicate: Share
    avoid: list[str]
    patience: Annotated[int, Field(ge=1)]


class Filters(Strict):
    ai_self_reference: bool
    off_topic: bool
    language: str | None
    too_similar: Annotated[float, Field(gt=0)]
    length_ratio: Annotated[float, Field(ge=1)]
    sequence_len: Annotated[int, Field(ge=1)]


class Balance(Strict):
    length: Literal["as-is", "matched"]
    emoji: Literal["as-is", "stripped"]


class Variant(Strict):
    """What an ablation's `data:` does to the training pairs; the held-out pairs stay those of the other runs, so that all are measured on the same."""

    kind: Literal["conversational", "general"] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    deduplicated: bool = False
    length: Literal["as-is", "matched"] = "as-is"
    emoji: Literal["as-is", "stripped"] = "as-is"
    form: Literal["pairs", "unpaired"] = "pairs"
    honest_identity: Annotated[int, Field(ge=0)] = 0  # pairs added in which the friendly and honest answer to "are you human?" is chosen (datagen.honest)


class Traits(Sampling):
    count: Annotated[int, Field(ge=2)]
    pairs: Annotated[int, Field(ge=1)]
    verdicts: Literal["all", "right"]
    embed: Annotated[str, Field(pattern="^(sentence-transformers|endpoint):.")] | None
    retest: Share
    attempts: Annotated[int, Field(ge=1)]
    schemas: bool


class Settings(Strict):
    prompts: str
    endpoint: Endpoint
    questions: Questions
    answers: Sampling
    pairs: Annotated[int, Field(ge=1)]
    filters: Filters
    balance: Balance
    traits: Traits
    held_out: Annotated[int, Field(ge=1)]
    seed: int | None
    prices: dict[str, OwnPrice]

    def prompt(self, name: str) -> str:
        """The text of prompts/<name>.txt. Raises UserError when it is missing or empty."""
        return read_prompt(Path(self.prompts) / f"{name}.txt")


@functools.cache  # read for every request
def read_prompt(path: Path) -> str:
    text = read_text(path, "a prompt").strip()
    if not text:
        raise UserError(f"{path}: the prompt is empty")
    return text


def merge(base: dict, delta: dict) -> dict:
    return base | {k: merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in delta.items()}


def read_yaml(path: Path, what: str) -> dict:
    """A YAML mapping. Raises UserError with line and column for text that is not YAML, or that repeats a key."""
    try:
        value = yaml.load(read_text(path, what), Loader=UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UserError(f"{path}:{mark.line + 1 if mark else '?'}: not valid YAML ({error.problem})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected `key: value` lines ({what})")
    return value


class UniqueKeys(yaml.SafeLoader):
    """YAML lets the last of two equal keys win in silence; here that is an error."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def nearest(key: str, known) -> str:
    match = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {match[0]!r}?" if match else "nothing reads it"


def load(profile: str, path: Path = PATH) -> Settings:
    """The settings of a profile (`paper` is the file itself). Raises UserError that names every fault."""
    values = read_yaml(path, "settings of data generation")
    profiles = values.pop("profiles", None) or {}
    if profile != "paper" and profile not in profiles:
        raise UserError(f"{path}: there is no profile {profile!r}; profiles are: paper, {', '.join(profiles)}")
    try:
        return Settings(**merge(values, profiles.get(profile, {})))
    except ValidationError as error:
        raise UserError(f"{path}, profile {profile}: " + "; ".join(map(fault, error.errors()))) from None


def load_variant(path: Path | None) -> Variant:
    """The `data:` of an ablation's file; what it leaves out stays as it is. Raises UserError that names every fault."""
    values = read_yaml(path, "an ablation").get("data", {}) if path else {}
    try:
        return Variant(**values)
    except ValidationError as error:
        raise UserError(f"{path}, data: " + "; ".join(fault(e, Variant) for e in error.errors())) from None
    except TypeError:
        raise UserError(f"{path}: data needs keys and values, like {{share: 0.5}}, got {values!r}") from None


def fault(error: dict, model: type = Settings) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        for part in error["loc"][:-1]:
            model = OwnPrice if model == dict[str, OwnPrice] else model.model_fields[part].annotation
        return f"unknown key {where} ({nearest(error['loc'][-1], model.model_fields)})"
    return f"{where}: {error['msg'].lower()}" + ("" if error["type"] == "missing" else f", got {error['input']!r}")


def stage_key(settings: Settings, stage: str, base: Path | None = None, variant: Path | None = None) -> dict:
    """What the result of a stage depends on: its settings and the text of its prompts; not URLs, keys, time-outs or concurrency.

    For `format`, also what it reads of the base's and of an ablation's YAML, and the tokenizer where that is a local file.
    """
    everything = settings.model_dump()
    keys, prompts = {
        "questions": (["questions", "seed"], ["questions_conversational", "questions_general", "list_request", "list_seeds"]),
        "pairs": (["answers", "pairs", "filters", "seed"], ["human_like", "formal"]),
        "honest": (["answers", "filters", "seed"], ["honest", "human_like"]),
        "format": (["held_out", "balance", "seed"], []),
    }[stage]
    key = {k: everything[k] for k in keys} | {f"prompt {name}": sha256(settings.prompt(name)) for name in prompts}
    if stage == "questions":
        files = [*filter(Path.is_file, map(Path, settings.questions.avoid)), *([TOPICS] if settings.questions.topics else [])]
        key |= {str(path): sha256(path.read_bytes()) for path in files}
    if stage == "honest":
        key |= {str(IDENTITY): sha256(IDENTITY.read_bytes())}
    if stage == "format" and base:
        yaml_ = read_yaml(base, "an Axolotl configuration")
        key |= {k: yaml_.get(k) for k in ("base_model", "sequence_len")}
        tokenizer = Path(str(key["base_model"])) / "tokenizer.json"
        key |= {"tokenizer": sha256(tokenizer.read_bytes())} if tokenizer.exists() else {}
        varied = load_variant(variant)
        key |= {"variant": varied.model_dump()} if variant else {}
        key |= {"honest": stage_key(settings, "honest")} if varied.honest_identity else {}
    return key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--stage", choices=["questions", "pairs", "honest", "format"])
    parser.add_argument("--base", type=Path, help="for --stage format: the Axolotl YAML of the base")
    parser.add_argument("--variant", type=Path, help="for --stage format: the ablation whose `data:` changes the training pairs")
    args = parser.parse_args()
    settings = load(args.profile)
    print(canonical(stage_key(settings, args.stage, args.base, args.variant)) if args.stage else yaml.safe_dump(settings.model_dump(), sort_keys=False).strip())


if __name__ == "__main__":
    entry(main)
