"""Asks one OpenAI-compatible endpoint and keeps every reply before anything else is done with it.

Replies lie in `<store>/*.jsonl`, one line each, under the hash of what was asked: model, messages, sampling settings and sample number.
URL, key, time-out and concurrency are not part of the hash. `max_tokens` is a floor: raising it asks again only where the
reply had been cut off. Stages stream requests through `Client.replies`, which never holds more than `concurrency` of them.
"""

import asyncio
import fcntl
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import openai

from datagen.config import Endpoint, Sampling
from datagen.files import UserError, canonical, sha256

GIVE_UP_AFTER = 10  # requests in a row that fail for good: then it is the endpoint, not the question


@dataclass(frozen=True)
class Request:
    model: str
    messages: tuple[tuple[str, str], ...]  # (role, content)
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    sample: int = 0  # the how-manieth reply to the same messages
    revision: str = ""  # hashed, not sent: tells models apart that are served under one name
    tag: object = None  # the caller's own mark, neither sent nor hashed

    @classmethod
    def of(cls, sampling: Sampling, model: str, messages: list[tuple[str, str]], seed: int | None, **more) -> "Request":
        return cls(model, tuple(messages), sampling.temperature, sampling.top_p, sampling.max_tokens, seed, **more)

    @property
    def key(self) -> str:
        return sha256(canonical([self.model, self.messages, self.temperature, self.top_p, self.seed, self.sample, self.revision]))

    def body(self) -> dict:
        """What goes over the wire. The seed differs between messages and samples: equal seeds would draw equal openings everywhere. It
        does not depend on the model, so a base and a tuned model answer with the same one."""
        body = {"model": self.model, "messages": [{"role": role, "content": content} for role, content in self.messages]}
        body |= {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        if self.seed is None:
            return body
        return body | {"seed": int(sha256(canonical([self.messages, self.seed, self.sample]))[:8], 16) >> 1}


@dataclass(frozen=True)
class Reply:
    text: str
    finish_reason: str  # stop, length, content_filter, or "failed" when no reply came
    usage: dict  # prompt_tokens and completion_tokens as the server counted them
    error: str = ""


class Store:
    """Every reply ever paid for: append-only JSON lines, read once at the start. Appends take a lock, so processes may share a folder."""

    def __init__(self, folder: Path):
        self.folder, self.replies = folder, {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.jsonl")):
            self._read(path)

    def _read(self, path: Path) -> None:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    self._keep(row["key"], row["request"]["max_tokens"], Reply(row["text"], row["finish_reason"], row["usage"]))
                except (ValueError, KeyError, TypeError):
                    print(f"{path}:{number}: half-written reply left aside (an interrupted run)", file=sys.stderr)

    def _keep(self, key: str, max_tokens: int, reply: Reply) -> None:
        self.replies[key] = (max_tokens, reply)

    def get(self, request: Request) -> Reply | None:
        max_tokens, reply = self.replies.get(request.key, (0, None))
        cut_short = reply is not None and reply.finish_reason == "length" and max_tokens < request.max_tokens
        return None if cut_short else reply

    def add(self, request: Request, reply: Reply, served_model: str) -> None:
        row = {"key": request.key, "request": request.body() | {"sample": request.sample}, "text": reply.text}
        row |= {"finish_reason": reply.finish_reason, "usage": reply.usage, "served_model": served_model, "time": round(time.time(), 3)}
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        name = "".join(c if c.isalnum() or c in "-._" else "_" for c in request.model)
        with open(self.folder / f"{name}.jsonl", "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # the last process died in the middle of its line
                    line = b"\n" + line
            file.write(line)
        self._keep(request.key, request.max_tokens, reply)


class Client:
    """One endpoint and its store, used as `async with Client(...) as client`.

    Raises UserError when the endpoint cannot be used at all; a single failed request is a Reply that says so.
    """

    def __init__(self, endpoint: Endpoint, store: Path, url: str | None = None):
        self.endpoint, self.store, self.url = endpoint, Store(store), url or endpoint.url
        self.sent = self.cached = self.failures_in_a_row = 0
        self.checking, self.checked = asyncio.Lock(), False
        # openai refuses an empty key even where the server asks for none (vLLM, llama.cpp).
        self.api = openai.AsyncOpenAI(base_url=self.url, api_key=endpoint.key or "none", timeout=endpoint.timeout, max_retries=endpoint.retries)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_) -> None:
        await self.api.close()  # in the loop that opened its connections

    @property
    def where(self) -> str:
        """The endpoint's address without any password in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def scrub(self, text: str) -> str:
        return text.replace(self.endpoint.key, "***") if self.endpoint.key else text

    def stop(self, problem: str, advice: str) -> UserError:
        kept = f"; {len(self.store.replies)} replies are kept in {self.store.folder}" if self.store.replies else ""
        return UserError(f"{self.where}: {self.scrub(problem)}{kept}. {advice}")

    def unusable(self, error: openai.OpenAIError) -> UserError | None:
        """The line for an error that makes further requests pointless, else None."""
        words = server_words(error)
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            state = "is set" if self.endpoint.key else "is not set"
            return self.stop(f"the key was refused ({error.status_code}: {words})", f"{self.endpoint.api_key_env} {state}: export the key of this endpoint")
        if isinstance(error, openai.NotFoundError):
            return self.stop(f"not found (404: {words})", "Check the model's name in datagen/config.yaml and the address, which usually ends in /v1")
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            return self.stop("nothing answers there", "Start the server, or export OPENAI_BASE_URL; the same command then goes on")
        return None

    async def models(self) -> list[str]:
        """The models that the endpoint lists; an empty list from a server that cannot say. Fails at once if nothing answers."""
        try:
            return [entry.id for entry in (await self.api.with_options(max_retries=0, timeout=20).models.list()).data]
        except openai.NotFoundError:
            return []
        except openai.OpenAIError as error:
            raise self.unusable(error) or self.stop(f"cannot list its models ({server_words(error)})", "Is this the address of the API?") from None

    async def resolve(self, model: str) -> str:
        """`auto` becomes the one model that the endpoint lists; any other name is returned as it is."""
        if model != "auto":
            return model
        listed = await self.models()
        if len(listed) != 1:
            raise self.stop(f"lists {len(listed)} models ({', '.join(listed[:5])})", "Name one of them in datagen/config.yaml instead of `auto`")
        return listed[0]

    async def ask(self, request: Request) -> Reply:
        """One reply, from the store or from the endpoint. Raises UserError when the endpoint cannot be used."""
        kept = self.store.get(request)
        if kept:
            self.cached += 1
            return kept
        async with self.checking:  # before the first request that costs something: does anything answer?
            if not self.checked:
                await self.models()
                self.checked = True
        try:
            answer = await self.api.chat.completions.create(**request.body())
            choice = answer.choices[0]
        except openai.OpenAIError as error:
            if stop := self.unusable(error):
                raise stop from None
            return self.failed(server_words(error))
        except (IndexError, TypeError, AttributeError):
            return self.failed("the server's answer holds no choices")
        usage = {k: getattr(answer.usage, k, None) or 0 for k in ("prompt_tokens", "completion_tokens")}
        reply = Reply(choice.message.content or "", choice.finish_reason or "stop", usage)
        self.store.add(request, reply, answer.model or "")
        self.sent += 1
        self.failures_in_a_row = 0
        return reply

    def failed(self, words: str) -> Reply:
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= GIVE_UP_AFTER:
            raise self.stop(f"{GIVE_UP_AFTER} requests in a row failed, the last with: {words}", "Mend that and run the same command again")
        return Reply("", "failed", {}, self.scrub(words))

    async def replies(self, requests: Iterable[Request]) -> AsyncIterator[tuple[Request, Reply]]:
        """(request, reply) as they arrive, not in order. Requests are drawn as there is room for them."""
        requests, running = iter(requests), {}
        try:
            while True:
                while len(running) < self.endpoint.concurrency and (request := next(requests, None)):
                    running[asyncio.create_task(self.ask(request))] = request
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield running.pop(task), task.result()
        except UserError:  # no use in asking on, but what is being answered is paid for: it is waited for, and stored
            await asyncio.gather(*running, return_exceptions=True)
            raise
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def server_words(error: openai.OpenAIError) -> str:
    """The server's own message, on one line."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    words = inner.get("message") if isinstance(inner, dict) else inner
    return " ".join(str(words or error).split())[:300]
