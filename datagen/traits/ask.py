"""What the stages of the traits share when they ask a model: prompts with places to fill, replies that must be one JSON object, and a second try."""

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datagen.client import Client, Reply, Request
from datagen.config import Settings
from datagen.files import UserError, canonical, sha256
from datagen.meter import at_most, money
from datagen.prices import cost

FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)
END = object()


class Unusable(Exception):
    """A reply that is not what was asked for; its text says why."""


@dataclass
class Answer:
    """What came of all tries with one thing."""

    values: list = field(default_factory=list)  # of each reply that could be read at all
    fault: str = ""  # of the last reply; empty where it was as it should be
    tries: int = 0


def prompt(settings: Settings, name: str, *places: str) -> str:
    """prompts/traits/<name>.txt. Raises UserError where a place to be filled is missing."""
    text = settings.prompt(f"traits/{name}")
    if missing := [place for place in places if f"{{{place}}}" not in text]:
        raise UserError(f"{Path(settings.prompts) / 'traits' / name}.txt: does not say where {', '.join(f'{{{place}}}' for place in missing)} goes")
    return text


def fill(template: str, fault: str = "", **values: str) -> str:
    """The template with {name} replaced, in one pass: what a value holds is never taken for a place. `fault`: why an earlier reply was of no use."""
    text = re.sub(r"\{(\w+)\}", lambda place: values.get(place[1], place[0]), template)
    return f"{text}\n\nAn earlier answer could not be used: {fault}." if fault else text


def draw(*parts: object) -> int:
    """A number of 32 bits that depends on nothing but `parts`."""
    return int(sha256(canonical(parts))[:8], 16)


def shuffled(ids: Iterable[str], *parts: object) -> list[str]:
    """`ids` in an order that depends on nothing but the ids themselves and `parts`."""
    return random.Random(sha256(canonical(parts))).sample(ordered := sorted(ids), len(ordered))


def once(pairs: list[tuple[str, object]]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise Unusable(f"the key {next(key for key in keys if keys.count(key) > 1)[:40]!r} stands twice")
    return dict(pairs)


def one_object(text: str) -> dict:
    """The JSON object that a reply is, or that it holds in one fence with nothing around it. Raises Unusable for anything else."""
    text = text.strip()
    fenced = FENCED.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Unusable("it was not one JSON object with nothing around it") from None
    if not isinstance(value, dict):
        raise Unusable("it was not one JSON object with nothing around it")
    return value


def request(settings: Settings, model: str, text: str, sample: int, schema: dict, tag: object, temperature: float) -> Request:
    traits = settings.traits
    # In the order given: that of the prompt is also that of the reply.
    extra = json.dumps({"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}}) if traits.schemas else ""
    return Request(model, (("user", text),), temperature, traits.top_p, traits.max_tokens, settings.seed, sample=sample, extra=extra, tag=tag)


async def answers(
    client: Client, settings: Settings, make: Callable[[object, int, str], Request], read: Callable[[object, str], tuple], names: list, what: str
) -> dict[object, Answer]:
    """{name: Answer} of every name. `make(name, attempt, fault)` is a request with `name` as its tag; attempts differ, so that each has its own place in the store.
    `read(name, text)` is (value, fault or ""), or raises Unusable. What cannot be used is asked for again, `attempts` times in all."""
    found = {name: Answer() for name in names}
    again: list[Request] = []
    open_, done = 0, 0

    def source() -> Iterator[Request | None]:
        nonlocal open_
        fresh = (make(name, 0, "") for name in names)
        while True:
            following = again.pop() if again else next(fresh, END)
            if following is END and not open_:
                return
            open_ += following is not END
            yield None if following is END else following

    async for request_, reply in client.replies(source()):
        open_ -= 1
        answer = found[request_.tag]
        answer.tries += 1
        try:
            value, answer.fault = read(request_.tag, spoken(reply))
            answer.values.append(value)
        except Unusable as error:
            answer.fault = str(error)
        if answer.fault and reply.finish_reason != "failed" and answer.tries < settings.traits.attempts:
            again.append(make(request_.tag, answer.tries, answer.fault))
        else:
            done += 1
        client.meter.progress(what, done, len(names), len(client.running))
    client.meter.progress(what, done, len(names), 0, final=True)
    return found


def spoken(reply: Reply) -> str:
    if reply.finish_reason == "failed":
        raise Unusable(f"no reply came ({reply.error})")
    if reply.finish_reason == "length":
        raise Unusable("it was cut off before its end")
    if reply.finish_reason != "stop":
        raise Unusable(f"it ended with {reply.finish_reason}")
    return reply.text


def bill(client: Client, requests: list[Request], what: str) -> str:
    """One line before anything is asked: how many calls, and the most that they can cost if each is answered at once."""
    new = [request_ for request_ in requests if client.store.get(request_) is None]
    known = f"{len(requests):,} {what}, {len(requests) - len(new):,} of them in {client.store.folder}"
    if not new:
        return f"{known}: nothing is asked"
    price = client.meter.of(new[0].model).price
    tokens = [at_most(request_) for request_ in new]
    usd = cost(price, sum(t[0] for t in tokens), sum(t[1] for t in tokens), batch=client.meter.batch) if price else None
    return f"{known}; the rest by {new[0].model} costs at most {money(usd)} ({price.source})" if price else f"{known}; the price of {new[0].model} is not known"
