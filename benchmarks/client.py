"""Measures datagen/client.py against a scripted server: speed beside the bare `openai` client, share of the ideal rate, memory, 10,000 in flight.

.venv/bin/python -m benchmarks.client            # about 8 minutes on two cores
.venv/bin/python -m benchmarks.client --quick    # about 2 minutes

Each side runs in a process of its own. Speed is the median of interleaved repeats: read the ratios, rates depend on the machine and its other users.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

from datagen.client import START, Client, Request, raise_file_limit
from datagen.config import Endpoint

SPAWN = multiprocessing.get_context("spawn")
IN_FLIGHT, WARM = START, 300  # beside `openai` there is no ramp; requests before the clock starts
SYSTEM = "You are a warm, thoughtful friend who answers questions about everyday life in a few natural sentences. " * 4
TEXT = "Well, I think it depends on what you are in the mood for – some days a long walk does it, other days nothing beats a book. " * 7
REPLY = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "scripted"}
REPLY |= {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT, "refusal": None}, "logprobs": None, "finish_reason": "stop"}]}
BODY = json.dumps(REPLY | {"usage": {"prompt_tokens": 96, "completion_tokens": 190, "total_tokens": 286}}).encode()


class Server(asyncio.Protocol):
    """Answers `POST /<milliseconds>.<at once>.<spread>/v1/...` with BODY: the first so many at once, the others after so long, give or take up to `spread` per cent.
    GET: what it saw since the last GET."""

    seen, open, peak, cpu = 0, 0, 0, 0.0

    def connection_made(self, transport) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (head := self.buffer.find(b"\r\n\r\n")) >= 0:
            at = self.buffer[:head].lower().find(b"content-length:")
            end = head + 4 + (int(self.buffer[at + 15 : head + 1].split(b"\r", 1)[0]) if at >= 0 else 0)
            if len(self.buffer) < end:
                return
            start, self.buffer = self.buffer[:40], self.buffer[end:]
            if start.startswith(b"GET"):
                self.send(json.dumps({"peak": Server.peak, "cpu": time.process_time() - Server.cpu}).encode())
                Server.seen, Server.open, Server.peak, Server.cpu = 0, 0, 0, time.process_time()
                continue
            Server.seen, Server.open, Server.peak = Server.seen + 1, Server.open + 1, max(Server.peak, Server.open + 1)
            delay, at_once, spread = map(int, start.split(b"/", 2)[1].split(b"."))
            delay *= 1 + random.uniform(-spread, spread) / 100
            asyncio.get_running_loop().call_later(delay / 1000, self.send) if Server.seen > at_once and delay else self.send()

    def send(self, body: bytes = BODY) -> None:
        Server.open -= 1
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def serve(pipe) -> None:
    raise_file_limit(12_000)
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=16384)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def asked(count: int, first: int = 0):
    messages = ((("system", SYSTEM), ("user", f"Question {i}: what do you do on a free Sunday?")) for i in range(first, first + count))
    return (Request("scripted", some, 0.7, 0.9, 512, seed=1) for some in messages)


async def ours(url: str, folder: str, count: int, in_flight: int, warm: int = 0, marks: tuple = ()) -> dict:
    """Our client with its store; `marks`: at how many replies the seconds and the memory in MB are noted."""
    settings = {"base_url": url, "api_key_env": "BENCHMARK_NO_KEY", "timeout": 120.0, "concurrency": in_flight, "retries": 2}
    client = Client(Endpoint(**settings, requests_per_minute=None, tokens_per_minute=None, batch=False), Path(folder), url=url)
    async with client:
        async for _ in client.replies(asked(warm, 10**9)):
            pass
        begin, cpu, seen, failed, noted = time.perf_counter(), time.process_time(), 0, 0, {}
        async for _, reply in client.replies(asked(count)):
            seen, failed = seen + 1, failed + (reply.finish_reason == "failed")
            if seen in marks:
                noted[seen] = (time.perf_counter() - begin, int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    faults = sum(client.meter.faults.values())
    return {"rate": seen / took, "cpu": cpu / seen, "good": seen - failed, "took": took, "noted": noted, "faults": faults, "cached": client.cached}


async def bare_openai(url: str, count: int, in_flight: int) -> dict:
    """The reference: that many workers around `AsyncOpenAI` as it comes; no reply is kept."""
    from openai import AsyncOpenAI

    async def worker(source):
        for request in source:
            await client.chat.completions.create(**request.body())

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for source in (asked(WARM, 10**9), asked(count)):
            begin, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(worker(source) for _ in range(in_flight)))
        return {"rate": count / (time.perf_counter() - begin), "cpu": (time.process_time() - cpu) / count}


def started(function, *args) -> dict:
    return asyncio.run(function(*args))


def apart(function, *args) -> dict:
    with ProcessPoolExecutor(1, mp_context=SPAWN) as process:
        return process.submit(started, function, *args).result()


def row(what: str, got: str, reference: str = "", ratio: str = "", target: str = "", ok: bool | None = None) -> None:
    print(f"{what:<45}{got:>10}  {reference:<28}{ratio:>7}  {target:<8}{'' if ok is None else 'ok' if ok else 'NOT'}", flush=True)


def measure(address: str, folder: str, quick: bool) -> None:
    def server_saw() -> dict:
        with urllib.request.urlopen(address) as response:
            return json.load(response)

    url, one, other, busy, count = f"{address}/0.0.0/v1", [], [], [], 1000 if quick else 3000
    for i in range(3 if quick else 5):
        server_saw()
        one.append(apart(ours, url, f"{folder}/speed{i}", count, IN_FLIGHT, WARM))
        busy.append(server_saw()["cpu"] / (count + WARM))
        other.append(apart(bare_openai, url, count, IN_FLIGHT))
    (mine, cpu), (theirs, their_cpu) = ([median(run[k] for run in runs) for k in ("rate", "cpu")] for runs in (one, other))
    row(f"replies/s, answered at once, {IN_FLIGHT} in flight", f"{mine:,.0f}", f"openai {theirs:,.0f}", f"{mine / theirs:.2f}", ">= 0.9", mine / theirs >= 0.9)
    row("  CPU ms a reply", f"{1000 * cpu:.2f}", f"openai {1000 * their_cpu:.2f}, server {1000 * median(busy):.2f}", f"{cpu / their_cpu:.2f}")

    steady, ramp = 256 * (12 if quick else 37), 7 * START  # 64, 128, then 256 are in flight in the first seconds
    # Answers that all take exactly as long come back in the clumps in which they were asked for, and wait for each other; real ones differ in length.
    for spread, target in ((20, 0.95), (0, None)):
        run = apart(ours, f"{address}/1000.0.{spread}/v1", f"{folder}/ideal{spread}", ramp + steady, 256, 0, (ramp, ramp + steady))
        rate = steady / (run["noted"][ramp + steady][0] - run["noted"][ramp][0])
        what = "256 in flight, after 1 s" + (f" ± up to {spread} %" if spread else " exactly")
        row(
            f"replies/s, {what}",
            f"{rate:.1f}",
            "ideal 256, after the ramp",
            f"{rate / 256:.3f}",
            f">= {target}" if target else "",
            rate / 256 >= target if target else None,
        )
        row(f"  with the ramp from {START}, {run['took']:.0f} s", f"{run['rate']:.1f}", "ideal 256", f"{run['rate'] / 256:.3f}")

    few, many = (2_000, 20_000) if quick else (20_000, 200_000)
    run = apart(ours, url, f"{folder}/memory", many, IN_FLIGHT, 0, (few, many))
    (early, small), (late, large) = run["noted"].values()
    row(f"MB of memory after {many:,} requests", f"{large:.1f}", f"{small:.1f} after {few:,}", f"{large - small:+.1f}", "<= +8", large - small <= 8)
    row("  replies/s, all of them and the first", f"{many / late:,.0f}", f"{few / early:,.0f}, the first {few:,}", f"{many / late * early / few:.2f}")
    again = apart(ours, url, f"{folder}/memory", few, IN_FLIGHT)
    row("replies/s from the store, none asked again", f"{again['rate']:,.0f}", f"{mine:,.0f} over the wire", f"{again['rate'] / mine:.1f}", "", again["cached"] == few)

    server_saw()
    run = apart(ours, f"{address}/30000.10000.0/v1", f"{folder}/many", 30_000, 10_000)  # 30 s: longer than it takes to ask 10,000; the ramp is answered at once
    peak, good = server_saw()["peak"], run["good"]
    row("10,000 in flight, after 30 s: answered", f"{good:,}", f"asked 30,000 in {run['took']:.0f} s", f"{good / 3e4:.3f}", "1", good == 30_000)
    row("  in flight at once, as the server saw", f"{peak:,}", f"10,000; tries repeated {run['faults']}", f"{peak / 1e4:.3f}", ">= 0.95", peak >= 9_500)
    print(f"\nOne process is the limit above {mine:,.0f}/s x latency in flight: " + ", ".join(f"{mine * s:,.0f} at {s} s" for s in (1, 3, 10)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick, (here, there) = parser.parse_args().quick, SPAWN.Pipe()
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "BUDGET_USD": ""}
    SPAWN.Process(target=started, args=(serve, there), daemon=True).start()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; replies of {len(BODY):,} bytes\n")
    row("what", "ours", "reference", "ratio", "target")
    with tempfile.TemporaryDirectory(prefix="bench-client-") as folder:
        measure(f"http://127.0.0.1:{here.recv()}", folder, quick)


if __name__ == "__main__":
    main()
