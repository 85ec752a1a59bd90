"""The whole show: a gateway over simulated backends, the tour, and then staying up for whoever watches.

Law: whatever ends it (the end of the tour, Ctrl-C, SIGTERM, a failure) stops the gateway and leaves nothing behind.
The gateway's log is kept to errors: a backend that dies is part of the show.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop
from rich.console import Console

from gateway import clock, logs
from gateway.config.settings import Settings
from gateway.demo.board import Board
from gateway.demo.caller import TIMEOUT
from gateway.demo.cast import GPUS, MODEL
from gateway.demo.fleet import Fleet
from gateway.demo.hosted import join_hosted
from gateway.demo.settings import demo_settings
from gateway.demo.tour import Tour
from gateway.server import Running, start

INTERRUPTED = 130
"""The exit code of a show that was ended before its tour was."""

ADDRESS = """
The gateway stays up at {url} until Ctrl-C. Your key: {key}

  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}]))

Look at it as its operator, in another terminal where `sluiceway` is found (`. .venv/bin/activate`); this admin key is
good for this run alone:

  export SLUICEWAY_URL={url} SLUICEWAY_ADMIN_KEY={admin_key}
  sluiceway backends ls
  sluiceway usage --by team,deployment

The backends are simulated, and say so; {gpus} were two replicas, of which the tour killed one for good.
To serve real models, end this, then
  the hosted NVIDIA endpoint: NVIDIA_API_KEY=nvapi-... sluiceway serve
  a local engine (vLLM, SGLang, llama.cpp, LM Studio, NIM, transformers) on its usual port: sluiceway serve
  any other place: sluiceway serve --config FILE, where FILE has
    backends:
      gpu-a: {{kind: vllm, base_url: http://10.0.0.5:8000/v1}}
"""


def run(fleet: Fleet, port: int, started: float, *, failover: bool, once: bool, as_json: bool) -> int:
    """Run the show and return the exit code: 0, 1 where a step failed, 130 when it was ended before its tour was.

    `started` is the time of the monotonic clock at which this process began. Raises `FleetFailed` and `TourBroken`.
    """
    logs.configure(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="sluiceway-demo-") as data_dir:
        settings = demo_settings(fleet, port, Path(data_dir), failover=failover)
        return uvloop.run(_until_signalled(_perform(settings, fleet, started, once=once, as_json=as_json)))


async def _until_signalled(work: Coroutine[Any, Any, int]) -> int:
    task = clock.spawn(work, "demo")
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED


def _join_hosted(running: Running) -> asyncio.Task[int | None] | None:
    api_key = os.environ.get("NVIDIA_API_KEY", "").strip()
    return clock.spawn(join_hosted(running.gateway, api_key), "join-hosted") if api_key else None


def _hosted_line(joined: int | None) -> str:
    if joined is None:
        return "NVIDIA_API_KEY is set, but the hosted endpoint did not list its models; is the key right?"
    return f"NVIDIA_API_KEY is set: {joined} models of the hosted endpoint are served too (GET /v1/models)."


async def _perform(settings: Settings, fleet: Fleet, started: float, *, once: bool, as_json: bool) -> int:
    console = Console(quiet=as_json)
    running = await start(settings)
    try:
        async with httpx.AsyncClient(base_url=running.url, timeout=TIMEOUT, trust_env=False) as client:
            tour = Tour(client, running.admin_key, fleet)
            key = await tour.first_call()
            first_200 = clock.monotonic() - started
            joining = _join_hosted(running)
            with Board(console) as board:
                report = await tour.run(board, first_200)
        if as_json:
            sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        if not once:
            _explain(console, running.url, key.key, running.admin_key)
            if joining is not None:
                console.print(_hosted_line(await joining))
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
    finally:
        await running.stop()
    return 0 if report.ok else 1


def _explain(console: Console, url: str, key: str, admin_key: str) -> None:
    gpus = " and ".join(gpu.name for gpu in GPUS)
    text = ADDRESS.format(url=url, key=key, admin_key=admin_key, model=MODEL, gpus=gpus)
    console.print(text, soft_wrap=True, highlight=False, markup=False)
