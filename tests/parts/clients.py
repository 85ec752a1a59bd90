"""Official clients that are no part of this environment: OpenAI's SDK for Node, and the Mistral Vibe command.

Law: versions are pinned here, and installed once into `build/clients` by `python -m tests.parts.clients`; a test that
misses one fails and says so. A client gets an environment of its own, nothing of the developer's settings or keys.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
FOLDER = _ROOT / "build" / "clients"
OPENAI_FOR_NODE = "openai@6.49.0"
VIBE = "mistral-vibe==3.0.2"
_LEAST_PYTHON = (3, 12)
"""What Vibe asks for; our own least is older."""

_NODE = FOLDER / "node"
_VIBE = FOLDER / "vibe"
_SCRIPTS = Path(__file__).parent / "clients_node"
_CONFIG = """\
active_model = "gateway-model"
enable_telemetry = false
enable_update_checks = false

[[providers]]
name = "sluiceway"
api_base = "{base}"
api_key_env_var = "SLUICEWAY_KEY"
api_style = "{style}"
backend = "generic"

[[models]]
name = "{model}"
provider = "sluiceway"
alias = "gateway-model"
temperature = 0.2
input_price = 0.0
output_price = 0.0
"""


@dataclass(frozen=True)
class Ended:
    """How a client's process ended and what it wrote."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.output)


def install() -> None:
    """Install what is missing. Raise RuntimeError where Node or a Python that Vibe takes is missing."""
    if _version(_NODE / "installed") != OPENAI_FOR_NODE:
        _install_for_node()
    if _version(_VIBE / "installed") != VIBE:
        _install_vibe()


async def run_node(script: str, *arguments: str, within: float = 60.0) -> Ended:
    """Run a script of `clients_node` in the project that has the SDK."""
    _must_be(_NODE / "installed", OPENAI_FOR_NODE)
    installed = _NODE / script
    installed.write_bytes((_SCRIPTS / script).read_bytes())  # imports are looked for beside the file
    return await _run([_executable("node"), str(installed), *arguments], _NODE, {}, within)


async def run_vibe(
    home: Path, url: str, key: str, model: str, *arguments: str, style: str = "openai", within: float = 100.0
) -> Ended:
    """Run `vibe` in the folder `home/work`, set up as the README says for the gateway at `url`.

    `style`: the API that it is to speak: `openai`, `openai-responses` or `anthropic`.
    """
    _must_be(_VIBE / "installed", VIBE)
    settings, work = home / ".vibe", home / "work"
    settings.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    base = url if style == "anthropic" else f"{url}/v1"  # for that one it adds the version itself
    (settings / "config.toml").write_text(_CONFIG.format(base=base, model=model, style=style))
    environment = {"HOME": str(home), "VIBE_HOME": str(settings), "SLUICEWAY_KEY": key}
    return await _run([str(_VIBE / "bin" / "vibe"), "--trust", *arguments], work, environment, within)


async def _run(command: list[str], folder: Path, environment: Mapping[str, str], within: float) -> Ended:
    pipe, plain = asyncio.subprocess.PIPE, {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=plain | environment, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(within):
            output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return Ended(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))


def _version(stamp: Path) -> str | None:
    return stamp.read_text() if stamp.exists() else None


def _must_be(stamp: Path, wanted: str) -> None:
    if _version(stamp) != wanted:
        raise RuntimeError(f"{wanted} is not in {stamp.parent}: run `python -m tests.parts.clients`")


def _install_for_node() -> None:
    npm = _executable("npm")
    shutil.rmtree(_NODE, ignore_errors=True)
    _NODE.mkdir(parents=True)
    (_NODE / "package.json").write_text('{"private": true}')
    subprocess.run([npm, "install", "--no-audit", "--no-fund", "--save-exact", OPENAI_FOR_NODE], cwd=_NODE, check=True)
    (_NODE / "installed").write_text(OPENAI_FOR_NODE)


def _install_vibe() -> None:
    python = _python()
    shutil.rmtree(_VIBE, ignore_errors=True)
    subprocess.run([python, "-m", "venv", _VIBE], check=True)
    subprocess.run([_VIBE / "bin" / "pip", "install", "-q", "--only-binary", ":all:", VIBE], check=True)
    (_VIBE / "installed").write_text(VIBE)


def _executable(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed: apt-get install nodejs npm")
    return found


def _python() -> str:
    """Return an interpreter that Vibe takes: ours, one on the path, or one of pyenv's."""
    for python in _pythons():
        told = subprocess.run([python, "-c", "import ensurepip, sys; print(*sys.version_info[:2])"],
                              capture_output=True, text=True, check=False)  # fmt: skip
        if told.returncode == 0 and tuple(map(int, told.stdout.split())) >= _LEAST_PYTHON:
            return python
    wanted = ".".join(map(str, _LEAST_PYTHON))
    raise RuntimeError(
        f"{VIBE} needs Python {wanted} or later with its venv module, and none is on the path or pyenv's"
    )


def _pythons() -> Iterator[str]:
    yield sys.executable
    names = [f"python3.{minor}" for minor in (12, 13, 14)] + ["python3"]
    yield from filter(None, map(shutil.which, names))
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from map(str, sorted(versions.glob("3.*/bin/python")))


if __name__ == "__main__":
    install()
