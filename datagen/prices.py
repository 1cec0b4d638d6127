"""What a model's tokens cost, and what its licence says of training on its answers: the dated facts of datagen/models.yaml.

The user's own prices (`prices:` in datagen/config.yaml) win; a server on this machine or a private network costs nothing; what is in neither
place is unknown, not guessed. Money is Decimal: US dollars, per million tokens where it is a price.
"""

import datetime
import ipaddress
import re
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from datagen.files import UserError

PATH = Path(__file__).with_name("models.yaml")


def decimal_text(value: object) -> object:
    """A float cannot hold 0.88 exactly, so amounts stand in quotes; they stay text, which JSON and YAML keep as it is."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return value
    raise PydanticCustomError("amount", 'expected US dollars per million tokens in quotes, such as "0.88"')


class OwnPrice(BaseModel, extra="forbid", strict=True, frozen=True):
    """One entry of `prices:` in datagen/config.yaml, under the name or glob of a model: US dollars per million tokens."""

    input: Annotated[str, BeforeValidator(decimal_text)]
    output: Annotated[str, BeforeValidator(decimal_text)]


class Offer(OwnPrice):
    provider: str
    models: list[str]
    date: datetime.date
    source: str


class Licence(BaseModel, extra="forbid", strict=True, frozen=True):
    name: str
    id: str  # the licence's name on the Hub
    models: list[str]
    strictness: Annotated[int, Field(ge=0, le=4)]  # what it asks of those who train on the answers; the scale is in models.yaml
    outputs: str  # the term that says so, in our words
    url: str
    read: datetime.date


class Facts(BaseModel, extra="forbid", strict=True, frozen=True):
    licences: list[Licence]
    hosts: dict[str, list[str]]
    prices: list[Offer]


class Price(NamedTuple):
    input: Decimal  # US dollars per million tokens of the prompt
    output: Decimal
    source: str
    date: datetime.date | None = None  # None for own prices and local servers


def checked(kind: object, value: object, where: object):
    """`value` read as `kind`. Raises UserError that names every fault."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        faults = [(".".join(map(str, e["loc"])), e) for e in error.errors()]
        lines = [f"unknown key {at}" if e["type"] == "extra_forbidden" else f"{at}: {e['msg']}, got {repr(e['input'])[:60]}" for at, e in faults]
        raise UserError(f"{where}: {'; '.join(lines)}") from None


@cache
def facts(path: Path = PATH) -> Facts:
    from datagen.config import read_yaml  # not above: it takes OwnPrice from here

    known = checked(Facts, read_yaml(path, "facts about models"), path)
    if strays := {offer.provider for offer in known.prices} - set(known.hosts):
        raise UserError(f"{path}: no hosts are given for {', '.join(sorted(strays))}")
    return known


def fits(name: str, globs: list[str]) -> bool:
    return any(fnmatchcase(name.lower(), glob.lower()) for glob in globs)


def is_local(host: str) -> bool:
    """This machine, a private network, or a name without a dot, which no public host has."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host) and ("." not in host or host.endswith((".local", ".internal", ".localhost")))


def price(model: str, url: str = "", own: dict | None = None) -> Price | None:
    """The price of a model at an endpoint, None when it is not known. Without a host in `url`, the dearest of the known providers.

    `own` maps names or globs of models to OwnPrice, or to mappings of that form; an exact name comes before globs, globs in their order.
    """
    own = {glob: dict(value) if isinstance(value, BaseModel) else value for glob, value in (own or {}).items()}
    mine = checked(dict[str, OwnPrice], own, "datagen/config.yaml, prices")
    for glob in sorted(mine, key=lambda glob: glob.lower() != model.lower()):
        if glob.lower() == model.lower() or fits(model, [glob]):
            return Price(Decimal(mine[glob].input), Decimal(mine[glob].output), "own price, datagen/config.yaml")
    host = urlsplit(url).hostname or ""
    if is_local(host):
        return Price(Decimal(0), Decimal(0), "local server, no price")
    known = [offer for offer in facts().prices if fits(model, offer.models) and (not host or fits(host, facts().hosts[offer.provider]))]
    offers = [Price(Decimal(o.input), Decimal(o.output), f"{o.provider}, {o.date}, {o.source}", o.date) for o in known]
    return max(offers, key=lambda offer: (offer.output, offer.input), default=None)


def cost(price: Price, prompt_tokens: int, completion_tokens: int, batch: bool = False) -> Decimal:
    """US dollars, exactly; half of that for what went through the Batch API."""
    usd = (price.input * prompt_tokens + price.output * completion_tokens).scaleb(-6)
    return usd / 2 if batch else usd


def licence(model: str) -> Licence | None:
    """What is known of a model's licence, None for an unknown model. Where the model runs plays no part."""
    return next((licence for licence in facts().licences if fits(model, licence.models)), None)
