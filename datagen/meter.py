"""What replies cost: tokens and money per model, the cap of BUDGET_USD, one line of progress, and an estimate from a sample."""

import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from datagen import prices
from datagen.files import UserError
from datagen.store import Reply, Request

EVERY = 1.0 if sys.stderr.isatty() else 10.0  # seconds between two lines of progress


def budget() -> Decimal | None:
    """BUDGET_USD, or None. Raises UserError for what is not a sum of money."""
    text = os.environ.get("BUDGET_USD", "").strip()
    try:
        cap = Decimal(text) if text else None
    except InvalidOperation:
        cap = Decimal("NaN")
    if cap is not None and not (cap.is_finite() and cap >= 0):
        raise UserError(f"BUDGET_USD={text}: expected an amount in US dollars, such as BUDGET_USD=25 or BUDGET_USD=0.50")
    return cap


def spent(ledger: dict) -> Decimal:
    """US dollars that the stage of `ledger` took."""
    return sum((Decimal(usage["usd"] or 0) for usage in ledger.get("usage", {}).values()), Decimal(0))


def money(usd: Decimal | None) -> str:
    if usd is None:
        return "price unknown"
    return f"${usd:,.2f}" if usd >= 1 or not usd else f"${usd:.4f}"


def duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 100:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


@dataclass
class Usage:
    """What one model's replies hold, whether they were paid for now or earlier."""

    price: prices.Price | None
    replies: int = 0
    uncounted: int = 0  # replies whose tokens the server did not report: they are estimated from their length
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: Decimal | None = Decimal(0)

    def add(self, request: Request, reply: Reply) -> None:
        prompt, completion = (reply.usage.get(k) for k in ("prompt_tokens", "completion_tokens"))
        if not prompt or (not completion and reply.text):
            self.uncounted += 1
            prompt, completion = at_most(request)[0] // 3, len(reply.text.encode("utf-8", "replace")) // 3
        self.replies += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion or 0
        self.usd = None if self.price is None else self.usd + prices.cost(self.price, prompt, completion or 0, batch=reply.batch)

    def as_json(self) -> dict:
        row = {"replies": self.replies, "prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        row |= {"usd": None if self.usd is None else str(self.usd.normalize() + 0)}
        row |= {"price": self.price.source if self.price else "unknown"}
        return row | ({"tokens estimated for": self.uncounted} if self.uncounted else {})


def at_most(request: Request) -> tuple[int, int]:
    """Tokens that a request can cost at worst: no tokenizer makes more than one of a byte, and a few mark each message."""
    return sum(len(content.encode("utf-8", "replace")) + 16 for _, content in request.messages), request.max_tokens


@dataclass
class Meter:
    """Counts replies, and says before each request whether the budget still covers the worst it can cost."""

    url: str
    own_prices: dict
    cap: Decimal | None = None
    batch: bool = False
    before: Decimal = Decimal(0)  # what earlier stages of this data set cost
    usage: dict[str, Usage] = field(default_factory=dict)
    faults: Counter = field(default_factory=Counter)  # tries that brought no reply, by kind; most were followed by one that did
    thoughts: int = 0  # replies that opened with a <think> block
    sent: int = 0
    cached: int = 0
    reserved: Decimal = Decimal(0)
    beside: list["Meter"] = field(default_factory=list)  # meters of other endpoints under the same cap
    latencies: list[float] = field(default_factory=list)  # seconds, of the first replies
    started: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)

    def of(self, model: str) -> Usage:
        if model not in self.usage:
            price = prices.price(model, self.url, self.own_prices)
            if price is None and self.cap is not None:
                raise UserError(f"BUDGET_USD cannot be kept: the price of {model} is not known; write it under `prices:` in datagen/config.yaml")
            self.usage[model] = Usage(price)
        return self.usage[model]

    @property
    def usd(self) -> Decimal | None:
        """What the replies so far cost, in this run or before it; None when a price is not known."""
        spent = [usage.usd for usage in self.usage.values()]
        return None if None in spent else self.before + sum(spent, Decimal(0))

    @property
    def committed(self) -> Decimal:
        """What is spent or set aside under the cap, at all endpoints together."""
        return sum(((meter.usd or Decimal(0)) + meter.reserved for meter in (self, *self.beside)), Decimal(0))

    def worst(self, request: Request) -> Decimal:
        price = self.of(request.model).price
        return prices.cost(price, *at_most(request), batch=self.batch) if price else Decimal(0)

    def reserve(self, request: Request) -> bool:
        """Sets aside the most that a request can cost; False when the budget does not hold that."""
        if self.cap is None:
            return True
        worst = self.worst(request)
        if self.committed + worst > self.cap:
            return False
        self.reserved += worst
        return True

    def release(self, request: Request) -> None:
        if self.cap is not None:
            self.reserved -= self.worst(request)

    def count(self, request: Request, reply: Reply, cached: bool, seconds: float | None = None) -> None:
        self.of(request.model).add(request, reply)
        self.thoughts += reply.thought
        self.cached += cached
        self.sent += not cached
        if seconds is not None and len(self.latencies) < 200:
            self.latencies.append(seconds)

    def lost(self, request: Request) -> bool:
        """A try that may have been charged but was no use: the budget counts it at its worst. False when it does not hold another."""
        if self.cap is None:
            return True
        self.before += self.worst(request)
        return self.committed <= self.cap

    def recall(self, ledger: dict) -> None:
        """Counts on from the usage in `ledger`."""
        for model, row in ledger.get("usage", {}).items():
            usage = self.of(model)
            usage.replies, usage.prompt_tokens, usage.completion_tokens = row["replies"], row["prompt_tokens"], row["completion_tokens"]
            usage.uncounted, usage.usd = row.get("tokens estimated for", 0), Decimal(row["usd"]) if row["usd"] else usage.usd

    def as_json(self) -> dict:
        """Usage per model, for a ledger: of every reply that was used, so that it does not depend on how often a run was broken off."""
        return {model: usage.as_json() for model, usage in sorted(self.usage.items())}

    def otherwise(self) -> dict:
        """What came instead of a reply, or around one, in this run; nothing where there was none."""
        counts = dict(sorted(self.faults.items())) | ({"<think> block stripped": self.thoughts} if self.thoughts else {})
        return {"replies that came otherwise": counts} if counts else {}

    @property
    def tokens(self) -> int:
        return sum(usage.prompt_tokens + usage.completion_tokens for usage in self.usage.values())

    def progress(self, what: str, done: int, wanted: int, in_flight: int, final: bool = False) -> None:
        """One line a second on a terminal, one every ten seconds in a log: how far, how fast, what it costs and will cost."""
        now = time.monotonic()
        if not final and now - self.shown < EVERY:
            return
        self.shown = now
        rate = self.sent / max(now - self.started, 1e-9)
        parts = [f"{done:,} of {wanted:,} {what}", f"{self.sent:,} replies paid for, {self.cached:,} from the store", f"{self.tokens:,} tokens"]
        if self.usd or self.cap is not None:
            ahead = f" of about {money(self.usd * wanted / done)}" if 0 < done < wanted else ""
            parts.append(money(self.usd) + ahead + (f", cap {money(self.cap)}" if self.cap is not None else ""))
        if not final:
            parts.append(f"{rate:.1f}/s, {in_flight} in flight")
            if self.sent and 0 < done < wanted:
                parts.append(f"{duration((self.sent + self.cached) * (wanted - done) / done / rate)} left")
        line = "  " + "; ".join(parts)
        print(f"\r\033[K{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() and not final else "\n", file=sys.stderr, flush=True)


def estimate(title: str, requests: int, usage: Usage, latencies: list[float], concurrency: int, batch: bool) -> dict:
    """What `requests` will take, from the mean of the replies in `usage`: tokens, US dollars (None: unknown price), seconds."""
    n = max(1, usage.replies)
    prompt, completion = requests * usage.prompt_tokens // n, requests * usage.completion_tokens // n
    usd = prices.cost(usage.price, prompt, completion, batch=batch) if usage.price else None
    seconds = None if batch or not latencies else requests * sum(latencies) / len(latencies) / min(concurrency, max(1, requests))
    return {"stage": title, "requests": requests, "prompt tokens": prompt, "completion tokens": completion, "money": usd, "seconds": seconds}


def table(rows: list[dict], sample: int) -> str:
    lines = [f"  {'':<12}{'requests':>11}{'prompt tokens':>16}{'answer tokens':>16}{'money':>16}{'time':>14}"]
    for row in rows:
        took = "up to a day" if row["seconds"] is None else duration(row["seconds"])
        lines.append(f"  {row['stage']:<12}{row['requests']:>11,}{row['prompt tokens']:>16,}{row['completion tokens']:>16,}{money(row['money']):>16}{took:>14}")
    return "\n".join([*lines, f"  from {sample} real replies; time at the concurrency set, if the server keeps up"])
