"""A Containerfile without a container engine: its steps run in a bare root, and what comes of them runs as in a pod.

Law: the file's own instructions are what runs, in their order, and one that is not known here is an error. An official
image of Python is stood in for by Debian's packages of the same release, made by debootstrap, with the pip of this
environment where that image has its own. Needs root: `chroot`, and namespaces of mounts and processes.
"""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
PACKAGES = {
    "bookworm": (
        *("python3", "python3.11", "python3-minimal", "python3.11-minimal", "libpython3.11-minimal"),
        *("libpython3.11-stdlib", "libpython3-stdlib", "libexpat1", "libssl3", "libffi8", "libsqlite3-0", "libuuid1"),
        *("zlib1g", "libbz2-1.0", "liblzma5", "libreadline8", "libncursesw6", "libtinfo6", "libc6", "libgcc-s1"),
        *("libstdc++6", "libcrypt1", "libselinux1", "libpcre2-8-0", "libacl1", "libattr1", "libgmp10", "libpam0g"),
        *("libaudit1", "libcap-ng0", "libsemanage2", "libsepol2", "libnsl2", "libtirpc3"),
    )
}
"""Beside what a release requires of itself: Python, and what it, a shell, coreutils and `useradd` are linked to."""

_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_LENT = (Path("/etc/resolv.conf"), Path("/etc/hosts"))
"""What an engine lends to the steps of a build, that they find the net."""

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True)
class Instruction:
    """One of a Containerfile: `name` in capitals; `rest` as written, its lines joined."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The rest as words, options left out: those of its JSON list, or as a shell would split it."""
        bare = re.sub(r"^(--\S+\s+)+", "", self.rest)
        return json.loads(bare) if bare.startswith("[") else shlex.split(bare)

    @property
    def options(self) -> dict[str, str]:
        """Its `--name=value`s."""
        return dict(re.findall(r"--([a-z-]+)=(\S+)", re.match(r"(--\S+\s+)*", self.rest)[0]))

    @property
    def pairs(self) -> dict[str, str]:
        """Its `NAME=value`s."""
        return dict(word.split("=", 1) for word in self.words)


def instructions(text: str) -> list[Instruction]:
    """Read a Containerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(name.upper(), rest) for name, rest in (line.split(None, 1) for line in joined.splitlines())]


@dataclass(frozen=True)
class Image:
    """A root and how it is to be run. `user` and `group` are numbers; commands are lists of words."""

    root: Path
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    user: int = 0
    group: int = 0
    workdir: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    stop_signal: str = "SIGTERM"
    healthcheck: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return du(self.root)

    def within(self, *words: str, **env: str) -> list[str]:
        """Return the command line that runs `words` in the root as its user, with its environment and nothing else."""
        known = [f"{name}={value}" for name, value in {**self.env, **env}.items()]
        who = f"--userspec={self.user}:{self.group}"
        return ["chroot", who, str(self.root), "/usr/bin/env", "-i", "-C", self.workdir, *known, *words]

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `words` so, on the root as it is, and return how that ended."""
        return subprocess.run(self.within(*words, **env), capture_output=True, text=True, check=False)


def du(folder: Path) -> int:
    """Return the bytes on disk of all below a folder."""
    return (
        int(subprocess.run(["du", "-sk", folder], check=True, capture_output=True, text=True).stdout.split()[0]) << 10
    )


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """Yield a folder for roots: tens of thousands of small files, which a disk takes a minute to remove."""
    with tempfile.TemporaryDirectory(prefix="bareroot-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=0700", "bareroot", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def debian(root: Path, release: str) -> None:
    """Make a bare Debian with Python in it, and what of an official Python image the steps of a build use.

    Its packages are unpacked and not configured, and debootstrap does not look for what they depend on: either takes
    longer than all the rest. What the scripts of packages make and is needed here is the two files of users.
    """
    import pip  # the one of this environment; an environment may have none, and then cannot do this

    options = ["--foreign", "--no-resolve-deps", "--variant=minbase", f"--include={','.join(PACKAGES[release])}"]
    done = subprocess.run(
        ["debootstrap", *options, release, str(root), MIRROR], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"debootstrap ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    for rest in ("debootstrap", "var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / rest, ignore_errors=True)
    python = (root / "usr/bin/python3").readlink().name
    shutil.copytree(Path(pip.__file__).parent, root / "usr/local/lib" / python / "dist-packages/pip")
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    _copy(_BUNDLE, root)
    # As configuring would have done: on a read-only root every start would compile them anew.
    rare = "lib2to3|pydoc_data|distutils|unittest|wsgiref|xmlrpc"
    done = Image(root).run("python3", "-m", "compileall", "-q", "-j", "0", "-x", rare, f"/usr/lib/{python}")
    if done.returncode:
        raise RuntimeError(f"Python's own modules cannot be compiled:\n{done.stdout}{done.stderr}")


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


class Build:
    """Plays one Containerfile: `stages` are the images it made, by name; the last is the one that it is about."""

    def __init__(self, context: Path, base: Path, folder: Path) -> None:
        self.stages: dict[str, Image] = {}
        self._context, self._base, self._folder = context, base, folder
        self._arguments: dict[str, str] = {}

    def play(self, steps: Sequence[Instruction]) -> Image:
        """Run the steps; return the last stage's image."""
        for step in steps:
            act = getattr(self, f"_{step.name.lower()}", None)
            if act is None:
                raise ValueError(f"{step.name} is not known here")
            act(step)
        return self._now

    @property
    def _now(self) -> Image:
        return [*self.stages.values()][-1]

    def _set(self, **fields: object) -> None:
        self.stages[[*self.stages][-1]] = replace(self._now, **fields)

    def _filled(self, text: str) -> str:
        known = self._arguments | (dict(self._now.env) if self.stages else {})
        return _VARIABLE.sub(lambda name: known[name[1] or name[2]], text)

    def _arg(self, step: Instruction) -> None:
        self._arguments |= step.pairs

    def _from(self, step: Instruction) -> None:
        name = step.words[2] if len(step.words) == 3 else str(len(self.stages))
        root = self._folder / name
        subprocess.run(["cp", "-a", self._base, root], check=True)
        self.stages[name] = Image(root)

    def _env(self, step: Instruction) -> None:
        self._set(env={**self._now.env, **{name: self._filled(value) for name, value in step.pairs.items()}})

    def _label(self, step: Instruction) -> None:
        self._set(labels={**self._now.labels, **step.pairs})

    def _workdir(self, step: Instruction) -> None:
        path = self._now.root / step.rest.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        self._set(workdir=step.rest)

    def _user(self, step: Instruction) -> None:
        user, _, group = step.rest.partition(":")
        self._set(user=int(user), group=int(group))

    def _copy(self, step: Instruction) -> None:
        *sources, target = step.words
        origin = self.stages[step.options["from"]].root if "from" in step.options else self._context
        into = self._now.root / os.path.join(self._now.workdir, target).lstrip("/")  # noqa: PTH118 - either may be absolute
        for source in sources:
            path = origin / source.lstrip("/")
            if path.is_dir():  # a folder's contents are copied, not the folder
                ignored = shutil.ignore_patterns(*([] if "from" in step.options else ["__pycache__"]))
                shutil.copytree(path, into, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, into)

    def _run(self, step: Instruction) -> None:
        for path in _LENT:
            _copy(path, self._now.root)
        done = self._now.run("/bin/sh", "-c", step.rest, PIP_CERT=str(_BUNDLE))
        for path in _LENT:
            (self._now.root / path.relative_to("/")).unlink()
        if done.returncode:
            raise RuntimeError(f"RUN {step.rest} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _expose(self, step: Instruction) -> None:
        self._set(ports=tuple(map(int, step.words)))

    def _stopsignal(self, step: Instruction) -> None:
        self._set(stop_signal=step.rest)

    def _healthcheck(self, step: Instruction) -> None:
        self._set(healthcheck=tuple(Instruction("CMD", step.rest.partition("CMD ")[2]).words))

    def _entrypoint(self, step: Instruction) -> None:
        self._set(entrypoint=tuple(step.words))

    def _cmd(self, step: Instruction) -> None:
        self._set(command=tuple(step.words))


_ENTER = """
set -e
root=$1; owner=$2; data=$3; given=$4; place=$5; shift 5
mount --bind "$root" "$root"
mount --bind "$given" "$root$place"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t tmpfs -o "mode=0750,nosuid,nodev,uid=$owner,gid=$owner" tmpfs "$root$data"
mount -o remount,bind,ro "$root$place"
mount -o remount,bind,ro "$root"
exec "$@"
"""
"""What an engine does before the first process of a container: a read-only root, what is mounted into it, a /tmp."""


class Container:
    """An image that runs: as process 1 of its own, on a read-only root, with `given` (a folder) mounted at `place`.

    `data` is where it may write, besides /tmp. The network is this machine's.
    """

    def __init__(self, image: Image, log: Path, *, given: Path, place: str, data: str) -> None:
        self.image = image
        self.given = given
        self.log = log
        self._mounts = [str(image.root), str(image.user), data, str(given), place]
        self._env: dict[str, str] = {}

    def start(self, **env: str) -> None:
        """Start it, with further environment."""
        self._env = env
        words = self.image.within(*self.image.entrypoint, *self.image.command, **env)
        enter = ["/bin/sh", "-c", _ENTER, "container", *self._mounts]
        apart = ["unshare", "--mount", "--pid", "--fork"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([*apart, *enter, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        self.pid = int(found[0])

    @property
    def output(self) -> str:
        """What it has written to its standard output and error so far."""
        return self.log.read_text(errors="replace")

    @property
    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def exec(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command in it, as its user and with its environment."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid"]
        command = [*enter, *self.image.within(*words, **self._env)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def stop(self, within: float = 30.0) -> int:
        """Send its stop signal and return its exit code. Raise TimeoutExpired."""
        os.kill(self.pid, getattr(signal, self.image.stop_signal))
        return self._process.wait(within)

    def kill(self) -> None:
        """End it, whatever state it is in: the kernel ends all its processes with its first."""
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait()

    def files(self, folder: str) -> set[str]:
        """Return the paths of all below a folder of it, as it sees them."""
        top = Path(f"/proc/{self.pid}/root")  # the root that its processes have changed to
        return {str(path.relative_to(top)) for path in (top / folder.lstrip("/")).rglob("*")}

    def states(self) -> list[str]:
        """Return the states of its processes, as ps(1) has them: `Z` is one that nobody waited for."""
        states = []
        for path in Path(f"/proc/{self.pid}/root/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
                states.append(path.read_text().rpartition(")")[2].split()[0])
        return states


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return what is below a root: mode, size and time of change by path."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in itertools.chain(folders, names):
            path = os.path.join(folder, name)  # noqa: PTH118 - ten thousands of them
            at = os.lstat(path)
            found[path] = (at.st_mode, at.st_size, at.st_mtime_ns)
    return found
