"""What a real server does under load: python -m tests.load_server [--clients 50] [--seconds 120]

Clients with accounts of their own ask one thing after another, half of them by /v1 and half by /api, and each honours
Retry-After. Then 120 ask at once with one key, and at last 20 leave in the middle of their replies. The clients run
on the same machine, and take a part of it. Nothing else should run meanwhile.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from chat.accounts import Accounts
from chat.data_folder import open_database
from chat.settings import load_settings
from model.checkpoint.catalog import DEFAULT_MODEL, resolve
from storage.accounts import AccountStore

ROOT = Path(__file__).parent.parent
PASSWORD = "correct horse battery"
TOPICS = ("a river", "the moon", "bread", "a bridge", "rain", "a clock", "salt", "glass", "a horse", "paper")
N_BURST, N_VANISHING = 120, 20
PATIENCE = 180.0  # seconds, of a client
PROBE_SECONDS = 0.1


class Refused(Exception):
    """The server has too much to do, and says when to come again."""

    def __init__(self, status: int, seconds: int) -> None:
        self.status, self.seconds = status, seconds


@dataclass
class Tally:
    """What came of the requests of all clients."""

    n_tokens: dict[int, int] = field(default_factory=dict)  # by client
    first_tokens: list[float] = field(default_factory=list)  # seconds
    refused: Counter[int] = field(default_factory=Counter)  # by status
    errors: list[str] = field(default_factory=list)

    @property
    def jain(self) -> float:
        """How evenly the clients got tokens: 1 is all the same, 1/n is one alone."""
        shares = list(self.n_tokens.values())
        return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


@dataclass
class Load:
    """A server under load, and what is seen of it from outside."""

    url: str
    pid: int
    keys: Sequence[str]  # one of each account
    tally: Tally = field(default_factory=Tally)
    resident: list[float] = field(default_factory=list)  # MiB, each second
    probes: list[float] = field(default_factory=list)  # seconds that /health took

    async def run(self, seconds: float, *, max_tokens: int = 48) -> None:
        """Have as many clients as there are accounts ask for so long."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, limits=limits) as client:
            until = time.monotonic() + seconds
            watching = asyncio.create_task(self._watch(client))
            await asyncio.gather(*(self._ask_on(client, number, until, max_tokens) for number in range(len(self.keys))))
            watching.cancel()

    async def _ask_on(self, client: httpx.AsyncClient, number: int, until: float, max_tokens: int) -> None:
        draw, ask = random.Random(number), ask_v1 if number % 2 else ask_api
        headers = {"Authorization": f"Bearer {self.keys[number]}"}
        self.tally.n_tokens[number] = 0
        while time.monotonic() < until:
            question = f"Tell me {draw.randint(2, 9)} things about {draw.choice(TOPICS)}, number {draw.random()}."
            begun, is_first = time.perf_counter(), True
            try:
                async for _ in ask(client, headers, question, max_tokens):
                    if is_first:
                        self.tally.first_tokens.append(time.perf_counter() - begun)
                        is_first = False
                self.tally.n_tokens[number] += max_tokens
            except Refused as refused:
                self.tally.refused[refused.status] += 1
                await asyncio.sleep(refused.seconds)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.tally.errors.append(f"{ask.__name__}: {error!r}")

    async def _watch(self, client: httpx.AsyncClient) -> None:
        while True:
            begun = time.perf_counter()
            (await client.get("/health")).raise_for_status()
            self.probes.append(time.perf_counter() - begun)
            if len(self.probes) % round(1 / PROBE_SECONDS) == 1:
                self.resident.append(resident_mib(self.pid))
            await asyncio.sleep(PROBE_SECONDS)

    async def burst(self, n: int) -> tuple[Counter[int], list[float]]:
        """Ask so many things at once on one account; returns the statuses, and how long each refusal took."""
        headers, refusals = {"Authorization": f"Bearer {self.keys[0]}"}, []
        body = {"model": await self._model(headers), "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, limits=limits) as client:

            async def one() -> int:
                begun = time.perf_counter()
                answer = await client.post("/v1/chat/completions", json=body, headers=headers)
                if answer.status_code != 200:
                    refusals.append(time.perf_counter() - begun)
                    check_refusal(answer)
                return answer.status_code

            return Counter(await asyncio.gather(*(one() for _ in range(n)))), refusals

    async def vanish(self, n: int) -> tuple[float, float]:
        """Have so many clients leave in mid-reply; returns after how many seconds no reply was being written any more,
        and how many of the next second the process computed.
        """
        headers = {"Authorization": f"Bearer {self.keys[0]}"}
        body = {"model": await self._model(headers), "messages": [{"role": "user", "content": "Count to 1000."}]}
        body |= {"stream": True, "max_tokens": 1000, "min_tokens": 1000}
        begun = [await open_socket(self.url, headers, body) for _ in range(n)]
        async with httpx.AsyncClient(base_url=self.url, headers=headers) as client:
            while await n_replies(client) < n:
                await asyncio.sleep(0.01)
            for _, writer in begun:
                writer.transport.abort()
            left_at = time.perf_counter()
            while await n_replies(client):
                await asyncio.sleep(0.01)
        idle_after, computed = time.perf_counter() - left_at, cpu_seconds(self.pid)
        await asyncio.sleep(1)
        return idle_after, cpu_seconds(self.pid) - computed

    async def _model(self, headers: dict[str, str]) -> str:
        async with httpx.AsyncClient(base_url=self.url) as client:
            name: str = (await client.get("/v1/models", headers=headers)).json()["data"][0]["id"]
            return name


async def ask_v1(
    client: httpx.AsyncClient, headers: dict[str, str], question: str, max_tokens: int
) -> AsyncIterator[None]:
    """Ask as OpenAI's clients do; yields at each piece of the reply."""
    name = (await client.get("/v1/models", headers=headers)).raise_for_status().json()["data"][0]["id"]
    body = {"model": name, "messages": [{"role": "user", "content": question}], "stream": True}
    body |= {"max_tokens": max_tokens, "min_tokens": max_tokens}
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
        await refuse(stream)
        async for line in stream.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise ValueError(chunk["error"]["message"])
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    yield


async def ask_api(
    client: httpx.AsyncClient, headers: dict[str, str], question: str, max_tokens: int
) -> AsyncIterator[None]:
    """Ask as the page does, in a conversation of its own; yields at each piece of the reply."""
    begun = await client.post("/api/conversations", json={}, headers=headers)
    chat = begun.raise_for_status().json()["id"]
    params = {"max_tokens": max_tokens, "min_tokens": max_tokens}
    async with client.stream("GET", "/api/events", params={"conversation_id": chat}, headers=headers) as stream:
        stream.raise_for_status()
        body = {"content": question, "params": params}
        sent = await client.post(f"/api/conversations/{chat}/messages", json=body, headers=headers)
        if sent.status_code in (429, 503):
            raise check_refusal(sent)
        sent.raise_for_status()
        event = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == "text":
                yield
            elif line.startswith("data: ") and event == "end":
                if (reply := json.loads(line.removeprefix("data: ")))["status"] != "complete":
                    raise ValueError(reply["error"])
                return


async def refuse(stream: httpx.Response) -> None:
    """Raise what the status of an answer says."""
    if stream.status_code in (429, 503):
        raise check_refusal(stream)
    stream.raise_for_status()


def check_refusal(answer: httpx.Response) -> Refused:
    """Return an honest refusal; raises ValueError for another one."""
    if answer.status_code not in (429, 503) or not answer.headers.get("Retry-After", "").isdecimal():
        raise ValueError(f"status {answer.status_code}, Retry-After {answer.headers.get('Retry-After')}")
    return Refused(answer.status_code, int(answer.headers["Retry-After"]))


async def open_socket(
    url: str, headers: dict[str, str], body: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask by a plain socket, and return it once the answer has begun."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}"]
    lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + content)
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def n_replies(client: httpx.AsyncClient) -> float:
    """Return how many replies are being written or wait."""
    text = (await client.get("/metrics")).raise_for_status().text
    return sum(map(float, re.findall(r"^parley_requests_(?:processing|deferred) (.*)$", text, re.MULTILINE)))


def resident_mib(pid: int) -> float:
    """Return how much memory a process has."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_accounts(folder: Path, n: int) -> list[str]:
    """Add accounts to a data folder; returns a key of each."""
    with open_database(folder) as database:
        accounts = Accounts(AccountStore(database))
        owners = [accounts.add(f"user{number}", PASSWORD, is_admin=number == 0).id for number in range(n)]
        scopes = ["completions", "write", "metrics"]
        return [accounts.add_key(owner, "load", scopes)[1] for owner in owners]


@contextmanager
def serve(folder: Path, model: Path) -> Iterator[tuple[str, int]]:
    """Serve on a data folder; yields the address and the process."""
    command = [sys.executable, str(ROOT / "app.py"), "serve", "--data", str(folder), "--model", str(model)]
    with (folder / "log").open("w") as log:
        # with so little room for what may be used again, it is full soon, and what then grows would be a leak
        process = subprocess.Popen([*command, "--port", "0", "--kv-memory", "256"], stderr=log, cwd=folder)
        try:
            while not (found := re.search(r"Parley is at (\S+)", (folder / "log").read_text())):
                time.sleep(0.1)
            while httpx.get(f"{found[1]}/health").status_code != 200:
                time.sleep(0.1)
            yield found[1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(load: Load, seconds: float) -> Iterator[str]:
    """Yield what is printed of the clients that asked on."""
    tally, middle = load.tally, len(load.resident) // 2
    yield f"{len(load.keys)} clients, {seconds:.0f} s: {len(tally.first_tokens):,} replies, errors {len(tally.errors)}"
    yield f"refused, with Retry-After: {dict(tally.refused) or 'none'}"
    yield f"first token: p50 {median(tally.first_tokens):.2f} s, p95 {percentile(tally.first_tokens, 0.95):.2f} s"
    yield f"tokens: {sum(tally.n_tokens.values()):,}, Jain's index over the clients {tally.jain:.3f}"
    resident = (load.resident[at] for at in (0, middle, -1))
    yield f"resident at the start, in the middle and at the end: {', '.join(f'{mib:.0f} MiB' for mib in resident)}"
    yield f"/health: p50 {1000 * median(load.probes):.0f} ms, p99 {1000 * percentile(load.probes, 0.99):.0f} ms"
    yield from tally.errors[:5]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    asked = parser.parse_args()
    model = resolve(DEFAULT_MODEL, load_settings().data / "models", lambda done, total: None)
    with TemporaryDirectory() as name:
        folder = Path(name)
        keys = make_accounts(folder, asked.clients)
        with serve(folder, model) as (url, pid):
            load = Load(url, pid, keys)
            asyncio.run(load.run(5))  # warms up
            load = Load(url, pid, keys)
            asyncio.run(load.run(asked.seconds))
            print(*report(load, asked.seconds), sep="\n")  # noqa: T201
            statuses, refusals = asyncio.run(load.burst(N_BURST))
            slowest = max(refusals, default=0)
            print(f"{N_BURST} at once: {dict(statuses)}, each refused within {1000 * slowest:.0f} ms")  # noqa: T201
            idle_after, computed = asyncio.run(load.vanish(N_VANISHING))
            print(f"{N_VANISHING} vanish: idle after {idle_after:.2f} s, then {computed:.2f} s of CPU in 1 s")  # noqa: T201


if __name__ == "__main__":
    main()
