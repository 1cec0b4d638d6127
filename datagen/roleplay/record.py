"""The record of a dialogue: one JSON line of `data/roleplay/<name>/dialogues.jsonl`, and the strict reader of that file.

    python -m datagen.roleplay.record data/roleplay/tiny/dialogues.jsonl      # checks every line, and says how the dialogues ended

    from datagen.roleplay.record import read
    for dialogue in read(path):
        dialogue.persona.text, dialogue.goal.text, dialogue.end_reason
        for prompt, response in dialogue.exchanges: ...

A dialogue is of two models: the *inquirer* plays a person with a goal, the *responder* is the chatbot (LLM Roleplay, arXiv 2407.03974, section 2).
Every output of the inquirer is kept as an attempt, those that failed too, since the failure rates count them (section 3.3). No key, no password.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from datagen.config import Strict
from datagen.files import UserError, entry, read_text

EndReason = Literal[
    "finished",  # the inquirer said that its goal is reached
    "max_turns",
    "given_up",  # a person went on to the next goal without having reached this one (eval.collect)
    "no_prompt",  # an output without a prompt in quotes, after all tries
    "truncated",  # an output of the inquirer that was cut off at max_tokens before its prompt ended
    "inquirer_empty",
    "inquirer_incoherent",
    "self_reply_only",  # an output of the inquirer that opens with the marker of another speaker
    "responder_empty",
    "responder_incoherent",
    "appreciation_loop",  # both sides only thanked each other, several times in a row
    "refusal_or_filter",  # a filter of the server's, on either side
    "toxic",  # a guard model called an utterance unsafe
    "api_error",  # no reply came; the next run tries this dialogue again
]
END_REASONS = get_args(EndReason)
Failure = Literal["no_prompt", "truncated", "empty", "incoherent", "self_reply_only", "refusal_or_filter", "api_error"]
SelfReply = Literal["markers", "structural", "echo", "role_flip"]


class Persona(Strict):
    id: str  # hash of the features, whatever their order
    index: int  # 0 for the first persona with these features, 1 for the next: two equal ones are two persons
    features: dict[str, str]  # {} for no persona
    text: str  # as it stands after "You are "


class Goal(Strict):
    id: str
    category: str
    text: str


class Player(Strict):
    """Who played a part, and how it was asked."""

    endpoint: str  # address, without any password
    model: str
    temperature: float
    top_p: float
    max_tokens: int


class Attempt(Strict):
    """One output of the inquirer."""

    raw: str  # as it came
    text: str  # without reasoning, and cut where another speaker's marker begins
    prompt: str | None  # what went to the responder, if this attempt was the last and did not fail
    prompt_strict: str | None  # what the paper's extraction finds: the first string between straight quotes
    found: int | None  # prompts in it; None in JSON mode, where the question does not arise
    found_strict: int | None
    stop: bool  # it says that the goal is reached
    failure: Failure | None
    self_reply: list[SelfReply]
    stop_failure: bool  # it only thanks or says goodbye, without the stop word
    repeats_strict: bool  # Algorithm 2 of the paper
    repeats: bool  # a loop by the form without false positives; only this decides
    finish: str  # the server's finish_reason
    usage: dict[str, int]  # prompt_tokens, completion_tokens as the server counted them; {} where it did not
    seed: int | None  # as sent
    temperature: float  # of this attempt: varied from the second on
    top_p: float
    dropped: int  # oldest exchanges left out of what was sent, because the context was full


class Response(Strict):
    """The responder's answer."""

    raw: str
    text: str  # without reasoning
    repeats_strict: bool
    repeats: bool
    finish: str
    usage: dict[str, int]
    seed: int | None
    dropped: int


class Turn(Strict):
    t: int  # from 0
    attempts: list[Attempt]  # at least one; the last is what the dialogue went on, or ended, with
    response: Response | None
    complete: bool  # prompt and response are both there and neither incoherent nor unsafe: only such turns are part of the dialogue

    @property
    def prompt(self) -> str | None:
        return self.attempts[-1].prompt


class Guard(Strict):
    """What a guard model said. Where none was asked, the dialogue's `guard` is None: unknown, not safe."""

    model: str
    verdict: Literal["safe", "unsafe", "unreadable"]  # unreadable: at least one verdict could not be read, and none was unsafe
    checked: int  # utterances
    turn: int | None  # of the unsafe utterance
    who: Literal["inquirer", "responder"] | None
    said: str  # the guard's words about it, such as its categories
    usage: dict[str, int]  # tokens of all its verdicts


class Dialogue(Strict):
    id: str  # <persona id>-<index>-<goal id>-<seed>
    seed: int  # of the run; the paper uses three
    settings: str  # hash of all that shaped it: prompts, sampling, models, limits
    persona: Persona
    goal: Goal
    inquirer: Player
    responder: Player
    turns: list[Turn]
    end_reason: EndReason
    end_detail: str
    guard: Guard | None
    versions: dict[str, str]

    @property
    def exchanges(self) -> list[tuple[str, str]]:
        """(prompt, response) of every complete turn: what a reader sees."""
        return [(turn.prompt, turn.response.text) for turn in self.turns if turn.complete]

    @property
    def outputs(self) -> list[Attempt]:
        """The inquirer's first attempts, one a turn: the denominator of the paper's failure rates."""
        return [turn.attempts[0] for turn in self.turns]

    @property
    def responses(self) -> list[Response]:
        """Every answer of the responder, those that ended the dialogue too: the denominator of its rate of incoherence."""
        return [turn.response for turn in self.turns if turn.response is not None]


def dialogue_id(persona: Persona, goal: Goal, seed: int) -> str:
    return f"{persona.id}-{persona.index}-{goal.id}-{seed}"


def line(dialogue: Dialogue) -> str:
    return json.dumps(dialogue.model_dump(), ensure_ascii=False) + "\n"


def read(path: Path, unfinished: bool = False) -> list[Dialogue]:
    """Every dialogue of a file, in its order. Raises UserError that names line and fault; an id that stands twice is one.

    `unfinished`: the file of a run that was broken off. A half-written last line is left aside."""
    found, seen = [], set()
    lines = read_text(path, "dialogues, from `make roleplay`").split("\n")
    for number, text in enumerate(lines, 1):
        if not text.strip() or (unfinished and number == len(lines)):  # only a whole line ends in a line feed
            continue
        try:
            dialogue = Dialogue.model_validate_json(text)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}".removeprefix(": ") for fault in error.errors()]
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise UserError(f"{path}:{number}: no record of a dialogue ({'; '.join(faults[:5])}{more}); run `make roleplay` again, replies are not asked twice") from None
        if dialogue.id in seen:
            raise UserError(f"{path}:{number}: the dialogue {dialogue.id} stands twice; run `make roleplay` again, replies are not asked twice")
        seen.add(dialogue.id)
        found.append(dialogue)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dialogues", type=Path)
    args = parser.parse_args()
    found = read(args.dialogues)
    ends = Counter(dialogue.end_reason for dialogue in found)
    turns = sum(len(dialogue.exchanges) for dialogue in found)
    print(f"{args.dialogues}: {len(found)} dialogues, {turns} complete turns; ended: " + (", ".join(f"{n} {reason}" for reason, n in ends.most_common()) or "none"))


if __name__ == "__main__":
    entry(main)
