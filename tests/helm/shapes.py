"""What a cluster takes: Kubernetes' own schemas, and our own for the kinds that are no part of Kubernetes.

Law: no kind goes unchecked. A foreign kind has its shape here, of the fields that the chart may write and of no others;
a kind that neither has is a mistake.

The foreign fields are those of the kinds' own definitions: ServiceMonitor and PrometheusRule (monitoring.coreos.com/v1)
in the Prometheus operator's `monitoring.coreos.com_servicemonitors.yaml` and `..._prometheusrules.yaml`, ScaledObject
(keda.sh/v1alpha1) in KEDA's `scaledobject_types.go` and the page of its Prometheus scaler, HTTPRoute
(gateway.networking.k8s.io/v1) in the Gateway API's `httproute_types.go` and `shared_types.go`.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.helm.charts import Object

# kubernetes-validate and what it brings are imported where they are used: the default lane reads this file too.
_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_COUNT = {"type": "integer", "minimum": 0}
_PROMETHEUS_DURATION = {"type": "string", "pattern": r"^(([0-9]+)(ms|[smhdwy]))+$"}
_GATEWAY_DURATION = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_HOST = {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}


def _only(required: str, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these properties and no others; `required`: names of those it must."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required.split(),
    }


def _some(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


_SERVICE_MONITOR = _only(
    "selector endpoints",
    selector=_only("matchLabels", matchLabels=_TEXTS),
    namespaceSelector=_only("matchNames", matchNames=_some(_NAME)),
    endpoints=_some(_only("port path", port=_TEXT, path=_TEXT, interval=_PROMETHEUS_DURATION)),
)
_RULE = _only(
    "alert expr labels annotations",
    alert={"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
    expr=_TEXT,
    labels=_TEXTS,
    annotations=_only("summary description", summary=_TEXT, description=_TEXT),
    **{"for": _PROMETHEUS_DURATION},
)
_PROMETHEUS_RULE = _only("groups", groups=_some(_only("name rules", name=_TEXT, rules=_some(_RULE))))
_TRIGGER = _only(
    "type metadata",
    type={"const": "prometheus"},
    metricType={"enum": ["AverageValue", "Value"]},
    metadata=_only(  # KEDA takes every value of a trigger's metadata as text
        "serverAddress query threshold",
        serverAddress={"type": "string", "pattern": "^https?://"},
        query=_TEXT,
        threshold={"type": "string", "pattern": "^[0-9.]+$"},
        ignoreNullValues={"enum": ["true", "false"]},
    ),
    authenticationRef=_only("name", name=_NAME),
)
_SCALED_OBJECT = _only(
    "scaleTargetRef triggers",
    scaleTargetRef=_only("name", apiVersion=_TEXT, kind=_TEXT, name=_NAME),
    pollingInterval=_COUNT,
    minReplicaCount=_COUNT,
    maxReplicaCount=_COUNT,
    advanced=_only(
        "horizontalPodAutoscalerConfig",
        horizontalPodAutoscalerConfig=_only("behavior", behavior={"type": "object"}),  # as an autoscaler's own
    ),
    triggers=_some(_TRIGGER),
)
_PARENT = _only("name", group=_TEXT, kind=_TEXT, name=_NAME, namespace=_NAME, sectionName=_NAME, port=_PORT)
_ROUTE = _only(
    "parentRefs rules",
    parentRefs=_some(_PARENT),
    hostnames=_some(_HOST),
    rules=_some(
        _only(
            "matches backendRefs",
            matches=_some(_only("path", path=_only("type value", type={"enum": ["Exact", "PathPrefix"]}, value=_TEXT))),
            timeouts=_only("", request=_GATEWAY_DURATION, backendRequest=_GATEWAY_DURATION),
            backendRefs=_some(_only("name port", name=_NAME, port=_PORT)),
        )
    ),
)
FOREIGN = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _SERVICE_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): _PROMETHEUS_RULE,
    ("keda.sh/v1alpha1", "ScaledObject"): _SCALED_OBJECT,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _ROUTE,
}
"""The `spec` of each kind that is no part of Kubernetes, by its version and name."""


def faults(item: Object, version: str) -> list[str]:
    """Return what Kubernetes `version`, or a foreign kind's own definition, finds wrong with an object."""
    kind = (item["apiVersion"], item["kind"])
    checks = _foreign(kind) if kind in FOREIGN else _schema(version, *kind)
    if checks is None:
        return [f"{item['kind']} of {item['apiVersion']}: Kubernetes {version} knows no such kind"]
    return [f"{item['kind']} {error.json_path}: {error.message}" for error in checks.iter_errors(item)]


def _foreign(kind: tuple[str, str]) -> Any:
    metadata = _only("name labels", name=_NAME, labels=_TEXTS, annotations=_TEXTS)
    whole = _only("metadata spec", apiVersion=_TEXT, kind=_TEXT, metadata=metadata, spec=FOREIGN[kind])
    return _validator(whole)


def _validator(schema: Any, **registry: Any) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema, **registry)


def _strict(version: str) -> Path:
    """Return the folder of a version's schemas that know every field."""
    return Path(str(files("kubernetes_validate"))) / "kubernetes-json-schema" / f"v{version}.0-local-strict"


@cache
def _definitions(version: str) -> Any:
    """Return what all schemas of a version refer to; crawled here once, or each look into it would be a crawl."""
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    held = json.loads((_strict(version) / "_definitions.json").read_text())
    return (Resource.from_contents(held, DRAFT202012) @ Registry()).crawl()


@cache
def _schema(version: str, api_version: str, kind: str) -> Any:
    """Return what checks a kind, strictly; None where there is no such kind."""
    group, slash, number = api_version.rpartition("/")
    prefix = group.partition(".")[0] + "-" if slash else ""
    path = _strict(version) / f"{kind.lower()}-{prefix}{number}.json"
    if not path.exists():
        return None
    return _validator(json.loads(path.read_text()), registry=_definitions(version))
