"""Asks OpenAI-compatible servers, as many requests at a time as they bear, and keeps every reply before anything else is done with it.

Stages stream requests through `Client.replies`. The number in flight finds its level by additive increase and multiplicative decrease
(Chiu and Jain 1989): it starts at `START`, grows with every reply up to `concurrency`, and is halved when a server says 429 or 503 or
does not answer in time. Several addresses of one model (replicas) share the load; one that cannot be reached is left out and tried again.
"""

import asyncio
import contextlib
import json
import random
import re
import resource
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp

from datagen.config import Endpoint
from datagen.files import UserError
from datagen.meter import Meter, budget, money
from datagen.store import Reply, Request, Store

__all__ = ["Client", "Reply", "Request", "Store"]

START = 64  # requests in flight at first; doubles with every round of replies until a server is busy
GIVE_UP_AFTER = 10  # requests in a row that fail for good: then it is the endpoint, not the question
LARGEST = 16 << 20  # bytes of one reply
PAUSES = (0.5, 60.0)  # seconds: the first pause before a request is repeated, and the longest
BUSY = (429, 503, 529)
# A request too long for the model: its own fault, and the caller may shorten it.
TOO_LONG = re.compile(r"context.{0,30}(length|size|window|limit|exceed)|maximum.{0,30}tokens|too many tokens|prompt is too long|input is too long", re.IGNORECASE)
NO_QUOTA = ("insufficient_quota", "billing", "credit balance", "exceeded your current quota")
END = object()


class Fault(Exception):
    """A try that brought no reply: in the server's words, of a kind (`busy`, `slow`, `unreachable`, `bad request`, or a passing `server error`), `wait`: to
    be repeated after so many seconds at the earliest, `charged`: what came instead of a reply, and may cost money."""

    def __init__(self, words: str, kind: str = "server error", wait: float = 0.0, charged: str = ""):
        super().__init__(words)
        self.words, self.kind, self.wait, self.charged = words, kind, wait, charged


@dataclass
class Replica:
    """One server: how much it bears, and whether it can be reached."""

    url: str
    most: int
    limit: float = 0.0
    in_flight: int = 0
    doubling: bool = True
    halved: float = 0.0  # when
    fails: int = 0  # times in a row that nobody was there
    closed_until: float = 0.0

    def __post_init__(self):
        self.limit = float(min(self.most, START))

    def room(self, now: float) -> float:
        return 0.0 if now < self.closed_until else max(0.0, int(self.limit if not self.fails else 1) - self.in_flight)

    def succeeded(self) -> None:
        self.fails = 0
        self.limit = min(self.most, self.limit + (1 if self.doubling else 1 / self.limit))

    def overloaded(self, asked_at: float, wait: float) -> None:
        """Halves the limit, once for all requests that were in flight together."""
        now = time.monotonic()
        self.closed_until = max(self.closed_until, now + wait)
        if asked_at > self.halved:
            self.halved, self.doubling = now, False
            self.limit = max(1.0, self.limit / 2)

    def unreachable(self, asked_at: float) -> None:
        if asked_at >= self.closed_until:  # all requests that found nobody together count as one time
            self.fails += 1
            self.closed_until = time.monotonic() + pause(self.fails)


class Pace:
    """At most so many units a minute, evenly: each one taken moves the time at which the next is free."""

    def __init__(self, per_minute: int | None):
        self.seconds, self.free_at = 60 / per_minute if per_minute else 0.0, 0.0

    def take(self, units: float) -> float:
        """Seconds to wait before `units` may be used. A negative number gives back what was not needed."""
        start = max(time.monotonic(), self.free_at)
        self.free_at = start + units * self.seconds
        return start - time.monotonic() if self.seconds else 0.0


class Client:
    """An endpoint and its store, used as `async with Client(...) as client`.

    Raises UserError when the endpoint cannot be used at all, or the budget is reached; a single failed request is a Reply that says so.
    """

    def __init__(self, endpoint: Endpoint, store: Path, url: str | None = None, prices: dict | None = None, spent: object = 0):
        self.endpoint = endpoint
        urls = [part.strip().rstrip("/") for part in (url or endpoint.url).split(",") if part.strip()]
        self.replicas = [Replica(part, endpoint.concurrency) for part in urls]
        self.window = raise_file_limit(endpoint.concurrency * len(self.replicas))
        self.meter = Meter(self.replicas[0].url, prices or {}, budget(), endpoint.batch)
        self.meter.before += spent
        self.store = Store(store)
        self.running: set[asyncio.Task] = set()
        self.asking: dict[str, asyncio.Task] = {}  # of `reply`, by the request's key
        self.together: list[Client] = [self]  # those under one budget
        self.waiting: deque[asyncio.Future] = deque()
        self.stopping = asyncio.Event()
        self.failures_in_a_row, self.ever, self.last_success = 0, False, time.monotonic()
        self.requests_pace, self.tokens_pace = Pace(endpoint.requests_per_minute), Pace(endpoint.tokens_per_minute)

    async def __aenter__(self) -> "Client":
        headers = {"Authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else {}
        timeout = aiohttp.ClientTimeout(total=self.endpoint.timeout, sock_connect=min(30, self.endpoint.timeout))
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        self.session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout, trust_env=bool(getproxies()), json_serialize=compact)
        return self

    async def __aexit__(self, *_) -> None:
        await self.session.close()
        self.store.close()

    @property
    def sent(self) -> int:
        return self.meter.sent

    @property
    def cached(self) -> int:
        return self.meter.cached

    @property
    def where(self) -> str:
        return ", ".join(bare(replica.url) for replica in self.replicas)

    def scrub(self, text: str) -> str:
        return text.replace(self.endpoint.key, "***") if self.endpoint.key else text

    def stop(self, problem: str, advice: str) -> UserError:
        kept = len(self.store)
        return UserError(f"{self.where}: {self.scrub(problem)}{f'; {kept} replies are kept in {self.store.folder}' if kept else ''}. {advice}")

    # ---------------------------------------------------------------- many requests

    async def replies(self, requests: Iterable[Request | None]) -> AsyncIterator[tuple[Request, Reply]]:
        """(request, reply) as they arrive, not in order. Requests are drawn as there is room for them; None in their place means that
        the next one depends on replies still to come. What the store holds is not asked for."""
        source, arrived = iter(requests), asyncio.Queue()
        if self.endpoint.batch:
            from datagen.batch import Batches

            async with contextlib.aclosing(Batches(self).replies(source)) as pairs:
                async for request, reply in pairs:
                    yield request, reply
            return
        held = None
        try:
            while True:
                drawn = END
                while len(self.running) < self.window and not self.stopping.is_set():
                    request = drawn = held or next(source, END)
                    if request is END or request is None:
                        break
                    held = None
                    if kept := self.store.get(request):
                        self.meter.count(request, kept, cached=True)
                        yield request, kept.spoken()
                        continue
                    if not self.meter.reserve(request):
                        held = request
                        break
                    task = asyncio.create_task(self.ask(request))
                    task.request = request
                    self.running.add(task)
                    task.add_done_callback(arrived.put_nowait)
                if not self.running:
                    if held:
                        raise self.over_budget()
                    assert drawn is END, "the next request depends on replies, but none is to come"
                    return
                task = await arrived.get()
                self.running.discard(task)
                yield task.request, task.result().spoken()
        finally:  # after an error, Ctrl-C or an early end: what is being answered is paid for, so it is waited for and stored
            await self.settle()

    async def reply(self, request: Request) -> Reply:
        """The reply to one request, as it came (with any <think> block): for conversations, in which the next request depends on it. Many may wait here at
        once. Whoever stops waiting (cancelled, after an error) leaves the request running: it is paid for, and `settle` waits until it is stored."""
        while earlier := self.asking.get(request.key):  # the same is being asked: it is not paid for twice
            await asyncio.wait([earlier])
        if kept := self.store.get(request):
            self.meter.count(request, kept, cached=True)
            return kept
        if not self.meter.reserve(request):
            running = set().union(*(client.running for client in self.together))
            if not running:
                raise self.over_budget()
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            return await self.reply(request)
        task = self.asking[request.key] = asyncio.create_task(self.ask(request))
        self.running.add(task)
        task.add_done_callback(lambda done: (self.running.discard(done), self.asking.pop(request.key, None)))
        return await asyncio.shield(task)

    def share_budget(self, others: list["Client"]) -> None:
        """Puts this client and others under one cap."""
        self.together = [self, *others]
        self.meter.beside = [client.meter for client in others]

    def over_budget(self) -> UserError:
        cap, spent = self.meter.cap, sum((client.meter.usd for client in self.together), Decimal(0))
        return UserError(
            f"the budget is reached: {money(spent)} of BUDGET_USD={cap} are spent on this data set, and one more request could go over it. "
            f"{len(self.store)} replies are kept in {self.store.folder}; the same command with a higher BUDGET_USD goes on from there"
        )

    async def settle(self) -> None:
        self.stopping.set()
        self.wake(len(self.waiting))
        if self.running and sys.exc_info()[0] is asyncio.CancelledError:
            print(f"\nwaiting for {len(self.running)} replies that are on their way (Ctrl-C again drops them)", file=sys.stderr, flush=True)
        await asyncio.gather(*self.running, return_exceptions=True)
        self.running.clear()
        self.stopping.clear()

    # ---------------------------------------------------------------- one request

    async def ask(self, request: Request) -> Reply:
        """One reply from the servers, stored; after the last try one that says why it failed. Raises UserError if they cannot be used."""
        tries = waits = 0
        try:
            while True:
                replica = await self.turn(request)
                if replica is None:
                    return Reply("", "failed", {}, "the run was stopped")
                asked_at = time.monotonic()
                try:
                    reply, served_model = await self.post(replica, request)
                except Fault as fault:
                    self.meter.faults[fault.charged or fault.kind] += 1
                    if fault.charged and not self.meter.lost(request):
                        return self.failed(f"{fault.words}; the budget does not cover another try")
                    if fault.kind in ("busy", "slow"):
                        replica.overloaded(asked_at, fault.wait)
                    if fault.kind == "busy":  # not the request's fault: it waits as long as others are answered
                        waits += 1
                        if asked_at - self.last_success > self.endpoint.timeout:
                            raise self.stop(f"busy for {self.endpoint.timeout:.0f} s without one reply ({fault.words})", "Try again later") from None
                    elif fault.kind == "unreachable":  # another server takes it, or this one when it is back
                        replica.unreachable(asked_at)
                        if all(r.fails and (not self.ever or r.fails > self.endpoint.retries) for r in self.replicas):
                            raise self.stop("nothing answers there", "Start the server, or export OPENAI_BASE_URL; the same command then goes on") from None
                        continue
                    else:
                        tries += 1
                        if fault.kind == "bad request" or tries > self.endpoint.retries:
                            return self.failed(fault.words)
                    pausing = max(fault.wait, pause(tries + waits))
                else:
                    pausing = 0.0
                    replica.succeeded()
                finally:
                    replica.in_flight -= 1
                    self.wake(2)
                if pausing:
                    await self.sleep(pausing)
                    continue
                self.store.add(request, reply, served_model)
                self.ever, self.last_success, self.failures_in_a_row = True, time.monotonic(), 0
                self.meter.count(request, reply, cached=False, seconds=self.last_success - asked_at)
                self.tokens_pace.take(sum(reply.usage.values()) - self.guess(request))
                return reply
        finally:
            self.meter.release(request)

    def guess(self, request: Request) -> float:
        """Tokens that a request is expected to take: those of the mean reply so far."""
        usage = self.meter.usage.get(request.model)
        return (usage.prompt_tokens + usage.completion_tokens) / usage.replies if usage and usage.replies else request.max_tokens

    async def turn(self, request: Request) -> Replica | None:
        """The server with the most room, once there is some and the pace allows it; None when the run is to stop."""
        if wait := max(self.requests_pace.take(1), self.tokens_pace.take(self.guess(request) if self.tokens_pace.seconds else 0)):
            await self.sleep(wait)
        while not self.stopping.is_set():
            now = time.monotonic()
            best = max(self.replicas, key=lambda replica: replica.room(now))
            if best.room(now) >= 1:
                best.in_flight += 1
                return best
            closed = [replica.closed_until - now for replica in self.replicas if replica.closed_until > now]
            future = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(future, min(closed) + 0.001 if closed else None)
        return None

    def wake(self, count: int) -> None:
        while count > 0 and self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(None)
                count -= 1

    async def sleep(self, seconds: float) -> None:
        """A pause that ends when the run is to stop."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def post(self, replica: Replica, request: Request) -> tuple[Reply, str]:
        """(reply, name of the model that served it). Raises Fault for a try that failed, UserError when trying again is no use."""
        try:
            async with self.session.post(f"{replica.url}/chat/completions", json=request.body()) as response:
                status, wait, raw = response.status, retry_after(response.headers.get("Retry-After")), b""
                async for chunk in response.content.iter_any():
                    raw += chunk
                    if len(raw) > LARGEST:
                        break
        except aiohttp.ClientConnectorError as error:
            raise Fault(f"no connection ({' '.join(str(error).split())})", "unreachable") from None
        except TimeoutError:
            raise Fault(f"no reply within {self.endpoint.timeout:.0f} s", "slow", charged="timed out") from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise Fault(f"the connection broke ({type(error).__name__})", charged="cut off on the way") from None
        except (aiohttp.InvalidURL, aiohttp.ClientError, ValueError) as error:
            raise self.stop(f"no request can be sent there ({type(error).__name__})", "An address looks like http://host:port/v1") from None
        if status != 200:
            raise self.refused(status, server_words(raw), wait)
        return read_reply(raw)

    def refused(self, status: int, words: str, wait: float) -> Exception:
        """What an HTTP error means: Fault, or UserError where further requests are pointless."""
        if status in (401, 403):
            state = "is set" if self.endpoint.key else "is not set"
            return self.stop(f"the key was refused ({status}: {words})", f"{self.endpoint.api_key_env} {state}: export the key of this endpoint")
        if status == 404:
            return self.stop(f"not found (404: {words})", "Check the model's name in datagen/config.yaml and the address, which usually ends in /v1")
        if status == 402 or (status == 429 and any(sign in words.lower() for sign in NO_QUOTA)):
            return self.stop(f"no credit is left ({status}: {words})", "Top up the account; the same command then goes on")
        if status in BUSY:
            return Fault(f"{status}: {words}", "busy", wait)
        return Fault(words, "bad request" if status < 500 and status not in (408, 409, 425) else "server error", wait)

    def failed(self, words: str) -> Reply:
        self.failures_in_a_row += not TOO_LONG.search(words)
        if self.failures_in_a_row >= GIVE_UP_AFTER:
            raise self.stop(f"{GIVE_UP_AFTER} requests in a row failed, the last with: {words}", "Mend that and run the same command again")
        return Reply("", "failed", {}, self.scrub(words))

    # ---------------------------------------------------------------- the models there

    async def models(self) -> list[str]:
        """The models that the first server that answers lists; an empty list from one that cannot say. Fails at once if none answers."""
        try:
            for replica in self.replicas:
                with contextlib.nullcontext() if replica is self.replicas[-1] else contextlib.suppress(aiohttp.ClientConnectionError):
                    async with self.session.get(f"{replica.url}/models", timeout=aiohttp.ClientTimeout(total=20)) as response:
                        raw, status = await response.read(), response.status
                    break
            if status == 404:
                return []
            if status != 200:
                raise self.refused(status, server_words(raw), 0)
            return [entry["id"] for entry in json.loads(raw)["data"]]
        except aiohttp.ClientConnectionError:
            raise self.stop("nothing answers there", "Start the server, or export OPENAI_BASE_URL; the same command then goes on") from None
        except (aiohttp.ClientError, Fault, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise self.stop(f"cannot list its models ({getattr(error, 'words', '') or type(error).__name__})", "Is this the address of the API?") from None

    async def resolve(self, model: str) -> str:
        """`auto` becomes the one model that the endpoint lists; any other name is returned as it is."""
        if model != "auto":
            return model
        listed = await self.models()
        if len(listed) != 1:
            raise self.stop(f"lists {len(listed)} models ({', '.join(listed[:5])})", "Name one of them in datagen/config.yaml instead of `auto`")
        return listed[0]


def read_reply(raw: bytes) -> tuple[Reply, str]:
    """(reply, name of the serving model) of the body of a chat completion. Raises Fault for what is none."""
    if len(raw) > LARGEST:
        raise Fault(f"a reply of more than {LARGEST >> 20} MiB", charged="larger than 16 MiB")
    try:
        body = json.loads(raw.decode())
    except UnicodeDecodeError:
        raise Fault("the reply is not UTF-8", charged="not UTF-8") from None
    except ValueError:
        raise Fault("the reply is not JSON", charged="not JSON") from None
    if isinstance(body, dict) and body.get("error"):  # some gateways report an error of the server behind them with status 200
        raise Fault(server_words(raw), charged="an error with status 200")
    try:
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        text = message.get("content")
        usage = {k: int(usage.get(k) or 0) for k in ("prompt_tokens", "completion_tokens")}
        finish = choice.get("finish_reason") or "stop"
        if message.get("tool_calls") and not text:
            finish = "tool_calls"
        elif message.get("refusal") and not text:
            text, finish = message["refusal"], "content_filter"
        if not isinstance(text, str | None) or not isinstance(finish, str):
            raise TypeError
    except (LookupError, TypeError, AttributeError, ValueError):
        raise Fault("the reply holds no choices", charged="no choices") from None
    return Reply(text or "", finish, usage), str(body.get("model") or "")


def server_words(raw: bytes) -> str:
    """The server's own message, on one line."""
    text = raw.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        body = json.loads(text)
        for key in ("error", "message", "detail"):
            body = body[key] if isinstance(body, dict) and body.get(key) else body
        text = body if isinstance(body, str) else compact(body)
    return " ".join(text.split())[:300] or "(no words)"


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def pause(tries: int) -> float:
    """Seconds before try number `tries` + 1: doubling, with full jitter (so that many requests do not come back at once)."""
    first, longest = PAUSES
    return random.uniform(first / 2, 1) * min(longest, first * 2**tries)


def retry_after(value: str | None) -> float:
    """Seconds that a `Retry-After` header asks for, given as such or as a date; 0 without one."""
    if not value:
        return 0.0
    try:
        return min(3600.0, max(0.0, float(value)))
    except ValueError:
        with contextlib.suppress(ValueError, TypeError):
            return min(3600.0, max(0.0, parsedate_to_datetime(value).timestamp() - time.time()))
        return 0.0


def bare(url: str) -> str:
    """An address without any password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def raise_file_limit(connections: int) -> int:
    """Allows as many open sockets as are wanted; returns how many there can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        print(f"  the system allows {soft} open files: {soft - 256} requests in flight instead of {connections} (ulimit -n)", file=sys.stderr)
    return max(1, min(connections, soft - 256))
