"""Many workers' answers made into one: their metrics, and how ready they are.

Law: no sample is added up or left out: each says whose it is, and who wants a sum can have it. A family is told once,
whichever of the workers have it.
"""

from collections.abc import Mapping

OWN = {
    "sluiceway_workers": ("gauge", "Workers that are ready."),
    "sluiceway_worker_restarts_total": ("counter", "Workers that ended by themselves and were replaced, by number."),
}
"""The metrics that only a supervisor has: each one's type, and what it tells."""


def merged(texts: Mapping[int, str], ready: int, restarts: Mapping[int, int]) -> str:
    """Return all workers' metrics (number -> Prometheus' text format) in one, behind those that are only ours.

    `ready`: workers that are; `restarts`: by a worker's number.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for number, text in texts.items():
        head: list[str] = []
        samples: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                head, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
            if not line.startswith("#"):
                samples.append(_labelled(line, number))
            elif line not in head:
                head.append(line)
    told = [line for family in families.values() for lines in family for line in lines]
    return "\n".join([*_own(ready, restarts), *told, ""])


def _labelled(sample: str, number: int) -> str:
    """Return a sample's line with the worker as its first label."""
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{worker="{number}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{number}"}} {value}'


def _own(ready: int, restarts: Mapping[int, int]) -> list[str]:
    counts = [f'sluiceway_worker_restarts_total{{worker="{number}"}} {count}' for number, count in restarts.items()]
    samples = {"sluiceway_workers": [f"sluiceway_workers {ready}"], "sluiceway_worker_restarts_total": counts}
    return [
        line
        for name, (kind, text) in OWN.items()
        for line in (f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples[name])
    ]


def readiness(ready: Mapping[int, str], unready: Mapping[int, str]) -> str:
    """Say how many workers are ready, and what there is to say of each: how well it serves, or why it does not."""
    head = "not ready" if not ready else "ok, but" if unready else "ok"
    whose: dict[str, list[str]] = {}
    for number, text in sorted({**ready, **unready}.items()):
        if text != "ok":
            whose.setdefault(text, []).append(f"worker {number}")
    return "\n".join(
        [
            f"{head}: {len(ready)} of {len(ready) + len(unready)} workers are ready",
            *(f"{', '.join(workers)}: {text}" for text, workers in whose.items()),
        ]
    )
