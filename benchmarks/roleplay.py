"""Measures the loop of role-played dialogues: 1,000 of them at 64 in flight against a scripted server, killed with `kill -9` in the middle, and their speed.

.venv/bin/python -m benchmarks.roleplay            # 1,000 dialogues, 24,000 requests; then 200 at a time for the speed
.venv/bin/python -m benchmarks.roleplay --quick    # 200 dialogues

The speed stands beside that of `benchmarks/client.py`'s measure of the client, against the same server in the same run: what the loop adds (histories,
extraction, detectors, records) costs the difference. Each side runs in a process of its own; read the ratio, rates depend on the machine and its other users.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from statistics import median

import yaml

from benchmarks.client import IN_FLIGHT, REPLY, SPAWN, WARM, apart, ours, row, started
from datagen.client import raise_file_limit
from datagen.files import canonical, iter_jsonl, sha256
from datagen.roleplay import run
from datagen.roleplay.record import read
from datagen.roleplay.settings import load

TURNS, PERSONAS, GOALS, SEEDS = 12, 20, 10, 5
ANSWER = " ".join(f"word{i}" for i in range(120)) + "."  # nothing in it repeats: a loop would end the dialogue
ROOT = Path(__file__).parent.parent


class Server(asyncio.Protocol):
    """Answers every chat at once: the model `asks` with a prompt in quotes, others with 120 words. GET: hashes of all bodies since the last GET."""

    seen: list[str] = []  # noqa: RUF012 (one server a process)

    def connection_made(self, transport) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (head := self.buffer.find(b"\r\n\r\n")) >= 0:
            at = self.buffer[:head].lower().find(b"content-length:")
            end = head + 4 + (int(self.buffer[at + 15 : head + 1].split(b"\r", 1)[0]) if at >= 0 else 0)
            if len(self.buffer) < end:
                return
            start, body, self.buffer = self.buffer[:4], self.buffer[head + 4 : end], self.buffer[end:]
            if start.startswith(b"GET"):
                answer, Server.seen = json.dumps(Server.seen).encode(), []
            else:
                asked = json.loads(body)
                Server.seen.append(sha256(canonical(asked)))
                said = f'"{len(asked["messages"])}: and what would you do with {asked.get("seed", 0) % 997} of them?"' if asked["model"] == "asks" else ANSWER
                answer = json.dumps(REPLY | {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


async def serve(pipe) -> None:
    raise_file_limit(1000)
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=4096)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def saw(url: str) -> list[str]:
    with urllib.request.urlopen(url) as response:
        return json.load(response)


async def played(config: str, store: str, folder: str) -> dict:
    """One whole run in this process."""
    settings = load(Path(config))
    Path(folder).mkdir(parents=True)
    begin, cpu = time.perf_counter(), time.process_time()
    dialogues, usage = await run.make(settings, Path(store), Path(folder))
    replies = sum(model["replies"] for models in usage.values() for model in models.values())
    took = time.perf_counter() - begin
    return {"rate": replies / took, "cpu": (time.process_time() - cpu) / replies, "dialogues": len(dialogues), "replies": replies, "took": took}


def killed(url: str, config: Path, folder: Path, requests: int) -> None:
    """A run that is killed when half of its requests are answered, and the same command again."""
    command = [sys.executable, "-m", "datagen.roleplay.run", "--config", str(config), "--out", str(folder / "out"), "--store", str(folder / "store")]
    before: list[str] = []
    saw(url)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(before) < requests // 2:
        if process.poll() is not None:
            sys.exit(f"the run ended by itself, with status {process.returncode}, after {len(before)} requests")
        time.sleep(0.2)
        before += saw(url)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    before += saw(url)
    stored = set()
    for path in (folder / "store").glob("*.jsonl"):
        lines = path.read_bytes().split(b"\n")
        stored |= {sha256(canonical({k: v for k, v in json.loads(line)["request"].items() if k != "sample"})) for line in lines[:-1]}
    finished = (folder / "out/bench/dialogues.jsonl").read_bytes().count(b"\n")
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took, after = time.perf_counter() - begin, saw(url)
    dialogues = read(folder / "out/bench/dialogues.jsonl")
    again = sum(n > 1 for n in Counter(before + after).values())
    row("killed with kill -9 after", f"{len(before):,}", f"of {requests:,} requests; {finished} dialogues were whole")
    row("  asked again though their reply was kept", f"{len(set(after) & stored)}", f"{len(stored):,} replies were kept", "", "0", not set(after) & stored)
    row("  asked again, on their way when it died", f"{again}", f"{IN_FLIGHT} in flight", "", f"<= {IN_FLIGHT}", again <= IN_FLIGHT)
    row("  dialogues at the end, all of 12 turns", f"{len(dialogues):,}", f"the rest took {took:.0f} s", "", "", all(len(d.exchanges) == TURNS for d in dialogues))
    kept = sum(1 for path in (folder / "store").glob("*.jsonl") for _ in iter_jsonl(path))
    row("  replies in the store", f"{kept:,}", f"{requests:,} distinct requests", "", "equal", kept == requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick, (here, there) = parser.parse_args().quick, SPAWN.Pipe()
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "BUDGET_USD": ""}
    SPAWN.Process(target=started, args=(serve, there), daemon=True).start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    values = yaml.safe_load((ROOT / "datagen/roleplay/config.yaml").read_text())
    del values["profiles"]
    values |= {"name": "bench", "seeds": list(range(1 if quick else SEEDS)), "max_turns": TURNS}
    values["personas"] |= {"count": PERSONAS}
    values["inquirer"] |= {"base_url": url, "model": "asks", "context": None}
    values["responder"] |= {"base_url": url, "model": "answers", "context": None}
    values["endpoint"] |= {"concurrency": IN_FLIGHT}
    dialogues = PERSONAS * GOALS * len(values["seeds"])
    requests = 2 * TURNS * dialogues
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print(f"{dialogues:,} dialogues of {TURNS} turns, {IN_FLIGHT} in flight\n")
    row("what", "ours", "reference", "ratio", "target")
    with tempfile.TemporaryDirectory(prefix="bench-roleplay-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(values))
        killed(url, config, Path(folder) / "killed", requests)
        config.write_text(yaml.safe_dump(values | {"seeds": values["seeds"][:1]}))
        loop, client = [], []
        for i in range(2 if quick else 3):
            client.append(apart(ours, url, f"{folder}/client{i}", 3000, IN_FLIGHT, WARM))
            loop.append(apart(played, str(config), f"{folder}/store{i}", f"{folder}/out{i}"))
            saw(url)
        (rate, cpu), (their_rate, their_cpu) = ([median(one[k] for one in runs) for k in ("rate", "cpu")] for runs in (loop, client))
        row("replies/s, answered at once", f"{rate:,.0f}", f"client alone {their_rate:,.0f}", f"{rate / their_rate:.2f}")
        row("  CPU ms a reply", f"{1000 * cpu:.2f}", f"client alone {1000 * their_cpu:.2f}", f"{cpu / their_cpu:.2f}")
        row("  dialogues/s", f"{rate / 2 / TURNS:.1f}", f"{PERSONAS * GOALS} in {median(one['took'] for one in loop):.0f} s")


if __name__ == "__main__":
    main()
