"""The chart as the real helm renders it: values in, the objects that a cluster would be given out.

Law: nothing of the chart is imitated here. What helm refuses is told as helm tells it, and what it renders is read as a
cluster reads it: a key that stands twice in one mapping is a mistake.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.house import ROOT
from tests.parts.helm import HELM_4, Ended, Package, helm

CHART = ROOT / "helm"
EXAMPLES = CHART / "examples"
VALUES = Path(__file__).parent / "values"
RELEASE, NAMESPACE = "gate", "models"
KUBERNETES = tuple(f"1.{minor}" for minor in range(29, 37))
"""The versions of Kubernetes that the chart is for."""

Object = Mapping[str, Any]


def value_files() -> list[Path]:
    """Every file of values that is tried: our own, and the examples that come with the chart."""
    return sorted(VALUES.glob("*.yaml")) + sorted(EXAMPLES.glob("*.yaml"))


def named(name: str) -> Path:
    """Return the file of values of that name."""
    (found,) = (path for path in value_files() if path.stem == name)
    return found


class _Loader(yaml.CSafeLoader):
    """Refuses a mapping that has one key twice, as a cluster does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice in one mapping: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def read(text: str) -> list[Object]:
    """Return the documents of a YAML text that are not empty."""
    return [document for document in yaml.load_all(text, _Loader) if document]


def template(
    *files: Path,
    values: Mapping[str, Any] | None = None,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    kube_version: str = KUBERNETES[-1],
    package: Package = HELM_4,
    chart: Path = CHART,
    cluster: str = "",
) -> Ended:
    """Run `helm template` with files of values and, over them, `values`; `cluster`: URL of one that may be asked."""
    asking = ("--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", cluster)
    where = asking if cluster else ("--kube-version", kube_version)
    arguments = ("template", release, str(chart), "--namespace", namespace, *where)
    return _run(arguments, files, values, package)


def notes(*files: Path, values: Mapping[str, Any] | None = None) -> str:
    """Return what helm tells whoever has installed the chart; no cluster is asked."""
    arguments = ("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client")
    ended = _run(arguments, files, values, HELM_4)
    assert ended.code == 0, ended.errors
    return ended.output.partition("\nNOTES:\n")[2]


def _run(
    arguments: tuple[str, ...], files: tuple[Path, ...], values: Mapping[str, Any] | None, package: Package
) -> Ended:
    given = "" if values is None else yaml.safe_dump(dict(values), sort_keys=False)
    named_files = (word for file in files for word in ("--values", str(file)))
    return _ran((*arguments, *named_files, *(["--values", "-"] if given else [])), given, package)


@cache
def _ran(arguments: tuple[str, ...], given: str, package: Package) -> Ended:
    """Run helm, once for all tests that run it so: the chart does not change while they do."""
    return helm(*arguments, given=given, package=package)


class Objects(list[Object]):
    """What one render holds."""

    def all(self, kind: str) -> Iterator[Object]:
        """Yield the objects of a kind."""
        return (item for item in self if item["kind"] == kind)

    def one(self, kind: str, name: str = RELEASE + "-sluiceway") -> Object:
        """Return the one object of a kind and name."""
        (found,) = (item for item in self.all(kind) if item["metadata"]["name"] == name)
        return found

    def kinds(self) -> list[str]:
        """Return the kind of each object, sorted."""
        return sorted(item["kind"] for item in self)


def render(*files: Path, **how: Any) -> Objects:
    """Return the objects that helm renders, of `template`'s arguments; AssertionError where it refuses."""
    ended = template(*files, **how)
    assert ended.code == 0, ended.errors
    return Objects(read(ended.output))


def merged(file: Path, *steps: str, value: Any) -> dict[str, Any]:
    """Return the values of a file with the one at the path `steps` set to `value`."""
    values: dict[str, Any] = yaml.safe_load(file.read_text())
    here = values
    for step in steps[:-1]:
        here = here.setdefault(step, {})
    here[steps[-1]] = value
    return values
