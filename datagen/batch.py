"""Sends requests through the OpenAI Batch API: half the price, within a day. Used by `Client.replies` where `endpoint.batch` is true.

`<store>/batches/<name>.json` says of each batch where it stands, and `<name>.jsonl` holds its requests until its replies are in the store.
A program that was closed finds both when it is started again, and collects what was paid for before it sends anything new.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai

from datagen.client import END, Client, Fault, bare, compact, pause, read_reply, server_words
from datagen.files import UserError, atomic, iter_jsonl, read_json, sha256, write_json
from datagen.store import Reply, Request

ENDED = ("completed", "expired", "cancelled", "failed")
FIELDS = [field.name for field in dataclasses.fields(Request) if field.name != "tag"]
PASSING = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)


class Batches:
    """The batches of a client's store. Raises UserError when the server has no Batch API, refuses the key or a whole batch, or the budget is reached."""

    PAUSES = (5.0, 60.0)  # seconds between two looks at a batch: the first, and the longest
    MOST, BYTES = 50_000, 95_000_000  # of one batch; the API takes 100 MB, and the last line may pass this mark
    PATIENCE = 200  # tries, up to 8 s apart, to reach a server that has answered before: a day is long, and networks fail in it

    def __init__(self, client: Client):
        self.client, self.store, self.retries = client, client.store, client.endpoint.retries
        self.url, self.folder = client.replicas[0].url, client.store.folder / "batches"
        self.tries: Counter[str] = Counter()

    async def replies(self, source: Iterator[Request | None]) -> AsyncIterator[tuple[Request, Reply]]:
        """(request, reply), as `Client.replies` has it: a batch holds what can be drawn until None or the end, and what failed in the one before."""
        chunk, queue, meter = {}, deque(), self.client.meter
        api = openai.AsyncOpenAI(base_url=self.url, api_key=self.client.endpoint.key or "none", max_retries=self.retries)
        with self.alone():
            try:
                async with api as self.api:
                    await self.resume()
                    while True:
                        drawn, twins, size = END, [], sum(len(wire(request)) for request in chunk.values())
                        while len(chunk) < self.MOST and size < self.BYTES:
                            request = drawn = queue.popleft() if queue else next(source, END)
                            if request is END or request is None:
                                break
                            if kept := self.store.get(request):
                                meter.count(request, kept, cached=True)
                                yield request, kept.spoken()
                            elif request.key in chunk:  # a batch must not name one twice; the store will have it after this one
                                twins.append(request)
                            elif meter.reserve(request):
                                chunk[request.key], size = request, size + len(wire(request))
                            else:
                                queue.appendleft(request)
                                break
                        if not chunk and queue:
                            raise self.client.over_budget()
                        if not chunk:
                            assert drawn is END, "the next request depends on replies, but none is to come"
                            return
                        queue.extend(twins)
                        found = await self.send(list(chunk.values()))
                        came = any(isinstance(outcome, Reply) for outcome in found.values())
                        for key, outcome in found.items():
                            if reply := self.judge(chunk[key], outcome, came):
                                request = chunk.pop(key)
                                meter.release(request)
                                if reply is outcome:
                                    meter.count(request, reply, cached=False)
                                yield request, reply.spoken()
            finally:
                for request in chunk.values():
                    meter.release(request)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Two programs that wait for the same batches would each send what is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.folder}: another program sends batches of this store; wait for it, or stop it and run this again") from None
            yield

    def judge(self, request: Request, outcome: Reply | Fault, came: bool) -> Reply | None:
        """The reply to a request, or None when it goes along in the next batch. `came`: some of its batch were answered."""
        if isinstance(outcome, Reply):
            return outcome
        self.tries[request.key] += 1
        self.client.meter.faults[outcome.charged or outcome.kind] += 1
        paid = not outcome.charged or self.client.meter.lost(request)
        if paid and outcome.kind != "bad request" and self.tries[request.key] <= self.retries:
            return None
        if came:  # lines have no order in time: many bad ones in a good batch do not mean that the endpoint is broken
            self.client.failures_in_a_row = 0
        return self.client.failed(outcome.words + ("" if paid else "; the budget does not cover another try"))

    async def send(self, requests: list[Request]) -> dict[str, Reply | Fault]:
        """What became of each request, by key. Every model has its own batch, as the API wants it."""
        models = dict.fromkeys(request.model for request in requests)
        states = [await self.create([request for request in requests if request.model == model]) for model in models]
        return {key: outcome for state in states for key, outcome in (await self.collect(state)).items()}

    async def resume(self) -> None:
        """Stores the replies of batches that an earlier run left; the source asks for those it still wants."""
        for requests in self.folder.glob("*.jsonl"):
            if not requests.with_suffix(".json").exists():  # that run died before it sent anything
                requests.unlink()
        for state in sorted(self.folder.glob("*.json")):
            row = read_json(state)
            if not row["collected"] and row["url"] == bare(self.url):
                await self.collect(state)
            elif not row["collected"]:
                print(f"  {state}: an unfinished batch of {row['url']} is left alone", file=sys.stderr)

    async def create(self, requests: list[Request]) -> Path:
        keys = sha256("".join(sorted(request.key for request in requests)))
        state = self.folder / f"{time.time_ns()}-{keys[:8]}.json"
        with atomic(state.with_suffix(".jsonl")) as file:
            file.writelines(json.dumps({name: getattr(request, name) for name in FIELDS}) + "\n" for request in requests)
        with self.in_words():
            file = await self.api.files.create(file=("requests.jsonl", b"".join(map(wire, requests))), purpose="batch")
            row = {"batch": None, "status": "uploaded", "collected": False, "url": bare(self.url), "requests": len(requests), "keys": keys}
            write_json(state, row | {"created": time.time(), "file": file.id, "uploaded": file.created_at})
            await self.start(state, look=False)
        return state

    async def start(self, state: Path, look: bool) -> None:
        """Makes a batch of the uploaded file. `look`: there may be one, as a run died or a connection broke on the way; only the server knows."""
        row = read_json(state)
        order = {"input_file_id": row["file"], "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"keys": row["keys"]}}
        for tries in range(1, self.retries + 2):
            try:
                batch = await self.find(row) if look else None
                batch = batch or await self.api.with_options(max_retries=0).batches.create(**order)
                return write_json(state, row | {"batch": batch.id, "status": batch.status})
            except PASSING:
                if tries > self.retries:
                    raise
                look = True
                await asyncio.sleep(pause(tries))
            except openai.BadRequestError:  # of this file there will never be one
                self.close(state, row)
                raise

    async def find(self, row: dict) -> object | None:
        async for batch in self.api.batches.list(limit=100):  # the newest first
            if batch.input_file_id == row["file"]:
                return batch
            if batch.created_at < row["uploaded"]:
                break
        return None

    async def collect(self, state: Path) -> dict[str, Reply | Fault]:
        """Waits for a batch and stores its replies. Raises UserError, after that, for what no further try would mend."""
        requests = {request.key: request for request in map(request_of, iter_jsonl(state.with_suffix(".jsonl"), "the requests of a batch"))}
        with self.in_words(f"{state}: "):
            if not read_json(state)["batch"]:
                await self.start(state, look=True)
            row = read_json(state)
            batch = await self.wait(state, row)
            files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
            lines = [line for file in files for line in (await self.api.files.content(file)).content.splitlines()]
        found = {key: Fault(f"the batch {batch.status} without a reply to this") for key in requests}
        problem = None
        for key, outcome, served in map(self.read, lines):
            if isinstance(outcome, Reply) and key in requests and not self.store.get(requests[key]):  # it is there if a run died right here
                self.store.add(requests[key], outcome, served)
            problem = outcome if isinstance(outcome, UserError) else problem
            if key in requests and not isinstance(found[key], Reply):
                found[key] = outcome
        self.close(state, row | {"status": batch.status})
        if batch.status == "failed":
            words = "; ".join(f"{f'line {e.line}: ' if e.line else ''}{e.message}" for e in ((batch.errors and batch.errors.data) or [])[:3])
            raise self.client.stop(f"batch {batch.id} was refused ({words or 'no words'})", "Mend that and run the same command again")
        if problem:
            raise problem
        return found

    async def wait(self, state: Path, row: dict) -> object:
        (pausing, longest), shown, api = self.PAUSES, None, self.api
        while (batch := await api.batches.retrieve(row["batch"])).status not in ENDED:
            counts = batch.request_counts
            line = f"  batch {batch.id} {batch.status}: {counts.completed if counts else 0:,} of {(counts and counts.total) or row['requests']:,} replies"
            if line != shown:
                print(line, file=sys.stderr, flush=True)
            shown, api = line, self.api.with_options(max_retries=self.PATIENCE)
            await asyncio.sleep(pausing)
            pausing = min(longest, pausing * 1.5)
        return batch

    def close(self, state: Path, row: dict) -> None:
        write_json(state, row | {"collected": True})
        state.with_suffix(".jsonl").unlink(missing_ok=True)

    def read(self, line: bytes) -> tuple[str, Reply | Fault | UserError, str]:
        """(key, what it brought, name of the model that served it) of a line of a batch's result."""
        row = {}
        try:
            row = json.loads(line)
            answer = row.get("response") or {}
            status, body = answer.get("status_code") or 0, compact(answer.get("body")).encode("utf-8", "replace")
            if row.get("error") and not status:
                raise Fault(server_words(compact(row).encode()))
            if status != 200:
                raise self.client.refused(status, server_words(body), 0)
            reply, served = read_reply(body)
            return row["custom_id"], dataclasses.replace(reply, batch=True), served
        except (Fault, UserError) as problem:
            return row.get("custom_id"), problem, ""
        except (ValueError, AttributeError, KeyError):
            return "", Fault("an unreadable line"), ""

    @contextlib.contextmanager
    def in_words(self, where: str = "") -> Iterator[None]:
        """An error of the API itself becomes a UserError."""
        again = "The same command goes on from there"
        try:
            yield
        except openai.APIStatusError as error:
            words = server_words(error.response.content)
            if error.status_code in (404, 405, 501):
                advice = f"Has this server a Batch API? If not, set endpoint.batch to false{'; remove that file to give the batch up' if where else ''}"
                raise self.client.stop(f"{where}not found ({error.status_code}: {words})", advice) from None
            problem = self.client.refused(error.status_code, words, 0)
            raise (problem if isinstance(problem, UserError) else self.client.stop(f"{where}{error.status_code}: {words}", again)) from None
        except openai.APIConnectionError:
            raise self.client.stop(f"{where}nothing answers there", again) from None
        except (openai.OpenAIError, AttributeError, ValueError) as error:  # a web page where JSON was expected
            raise self.client.stop(f"{where}the answer is none of a Batch API ({type(error).__name__})", "Is this the address of the API?") from None


def wire(request: Request) -> bytes:
    line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": request.body()}
    return compact(line).encode("utf-8", "replace") + b"\n"


def request_of(row: dict) -> Request:
    return Request(**row | {"messages": tuple(map(tuple, row["messages"]))})
