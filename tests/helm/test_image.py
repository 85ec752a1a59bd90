"""The image's steps, run in a bare root, and what comes of them, run as a container: see `tests/parts/bareroot.py`."""

import asyncio
import contextlib
import re
import time
import tomllib

import httpx
import pytest
import yaml

from tests.house import ROOT
from tests.parts.bareroot import Build, Container, debian, du, in_memory, instructions, snapshot
from tests.parts.gateway import ADMIN_KEY, STORE_DEADLINE, write_config
from tests.parts.ports import free_port
from tests.parts.scripted import ScriptedServer

HELM = ROOT / "helm"
STEPS = instructions((HELM / "Containerfile").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

SIZE = 400 << 20
"""Bytes that the image may take in all, its Debian and Python included."""

OURS = 0.7
"""The share of it that may be ours: the packages."""

VERSION, RELEASE = re.search(r"python:(\d+\.\d+)\.\d+-slim-(\w+)$", STEPS[0].pairs["BASE"]).groups()
"""Of the base's Python, and of its Debian."""

DATA = "/var/lib/sluiceway"


def ci(test):
    """Mark a test that needs debootstrap, root, and more than the usual time."""
    return pytest.mark.ci(pytest.mark.timeout(300)(test))


def locked(path):
    """Return what a lock says of each package: version, marker and hashes, by name."""
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"\n    #.*", "", path.read_text()))
    return {re.match(r"[\w.-]+", entry)[0]: entry.strip() for entry in entries if not entry.startswith("#")}


def test_the_images_lock_is_the_part_of_the_lock_that_a_gateway_runs_on():
    """The same versions and hashes, everything that the project names, and nothing that only tests need."""
    ours, whole = locked(HELM / "image.lock"), locked(ROOT / "requirements.lock")

    assert {name: whole.get(name) for name in ours} == ours
    assert {re.match(r"[\w-]+", one)[0] for one in PROJECT["dependencies"]} <= set(ours)
    assert not {"pytest", "mypy", "matplotlib", "xllamacpp"} & set(ours)


def test_an_image_built_from_the_file_says_what_it_is():
    """Its version is the project's; what the build copies is what the build may see."""
    labels = next(step.pairs for step in STEPS if step.name == "LABEL")
    copied = [word for step in STEPS if step.name == "COPY" and not step.options for word in step.words[:-1]]
    seen = [line[1:] for line in (HELM / "Containerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]

    assert labels["org.opencontainers.image.version"] == PROJECT["version"]
    assert sorted(copied) == sorted(seen)


@pytest.fixture(scope="module")
def built():
    """Make the bare Debian and run the file's steps."""
    with in_memory() as folder:
        begun = time.monotonic()
        debian(folder / "base", RELEASE)
        bare = time.monotonic()
        build = Build(ROOT, folder / "base", folder)
        build.play(STEPS)
        print(f"\nbare root {bare - begun:.1f} s, steps {time.monotonic() - bare:.1f} s")
        yield build


@pytest.fixture(scope="module")
def image(built):
    """Return what the last stage made."""
    return [*built.stages.values()][-1]


@pytest.fixture
async def upstream():
    """Serve one model outside."""
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
def container(image, upstream, tmp_path):
    """Make a container of the image with a file that has the embedded store and the upstream; it is not started."""
    given = tmp_path / "given"
    given.mkdir()
    settings = {
        "store": {"url": "embedded", "data_dir": DATA, "deadline": STORE_DEADLINE},
        "backends": {"up": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}},
        "models": {"scripted": {"deployments": [{"backend": "up", "model": "scripted"}]}},
    }
    write_config(given, settings)
    box = Container(image, tmp_path / "log", given=given, place="/etc/sluiceway", data=DATA)
    yield box
    box.kill()


async def started(container):
    """Start it; return its callers' and its operators' address when it takes calls."""
    said = yaml.safe_load((container.given / "sluiceway.yaml").read_text())
    url, operations = (f"http://127.0.0.1:{said[where]['port']}" for where in ("listen", "operations"))
    container.start(SLUICEWAY_ADMIN_KEY=ADMIN_KEY, SLUICEWAY_OPERATIONS_PORT=f"{said['operations']['port']}")
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{operations}/readyz")).status_code == 200:
                    return url, operations
            assert container.ended is None, container.output
            await asyncio.sleep(0.05)


@ci
def test_the_image_is_small_and_nothing_can_be_installed_in_it(built, image):
    """Most of it is the packages that a gateway runs on; it has neither pip nor a compiler."""
    whole, ours = image.size, du(image.root / "opt/sluiceway")
    print(f"\nimage {whole >> 20} MiB, of which {ours >> 20} MiB are ours")
    tools = ("python -c 'import pip'", "python3 -m ensurepip --version", "command -v cc gcc pip")
    got = {tool: image.run("/bin/sh", "-c", tool).returncode for tool in tools}

    assert whole < SIZE
    assert ours < OURS * whole
    assert 0 not in got.values(), got
    assert image.run("python", "-V").stdout.startswith(f"Python {VERSION}.")


@ci
async def test_a_container_serves_on_a_read_only_root_as_nobody(container, image, upstream):
    """And ends in order, with nothing written but to /tmp and its data folder, and every child waited for."""
    before = snapshot(image.root)
    url, operations = await started(container)
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as client:
        live = await client.get(f"{operations}/livez")
        asked = {"organization": "acme", "team": "research", "name": "test"}
        key = (await client.post(f"{url}/admin/v1/keys", json=asked)).json()["key"]
        chat = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
        answer = await client.post(
            f"{url}/v1/chat/completions", json=chat, headers={"x-api-key": key, "authorization": ""}
        )
    healthy = container.exec(*image.healthcheck)
    who = container.exec("id", "-u")
    writes = container.exec("touch", "/opt/sluiceway/new", "/var/lib/sluiceway/new")
    files, states = {where: container.files(where) for where in ("/tmp", DATA)}, container.states()
    code = container.stop()

    assert live.status_code == answer.status_code == 200, answer.text
    assert len(upstream.calls) == 1
    assert healthy.returncode == 0, healthy.stderr
    assert who.stdout == "10001\n"
    assert "Read-only file system" in writes.stderr
    assert all(re.fullmatch(r"tmp/sw-\w+(/store)?", path) for path in files["/tmp"]), files
    assert "Z" not in states
    assert code == 0, container.output
    assert snapshot(image.root) == before


@ci
def test_the_healthcheck_says_no_where_nobody_listens(image):
    """Its exit code is what an engine goes by."""
    done = image.run(*image.healthcheck, SLUICEWAY_OPERATIONS_PORT=f"{free_port()}")

    assert done.returncode == 1
