"""README's section on capacity, made of the coefficients: every number in it is one of them or follows from them.

Law: nothing is measured here, and nothing written but the section itself, between its heading and the next.
"""

import re
import textwrap
from pathlib import Path

from gateway.ledger.leases import TOGETHER
from gateway.ledger.retention import DAYS
from tests.bench.capacity_model import (
    CHANGES,
    FEW,
    POD,
    SHARD,
    TURN,
    TWICE,
    beats,
    gateway_core,
    limits,
    loads,
    memory,
    of_beat,
    of_call,
    of_heartbeat,
    one_organization,
    shards,
    together,
    whole_sums,
)

README = Path(__file__).parents[2] / "README.md"
HEADING = "### Capacity"

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"))


def number(value):
    """Write a number with two significant digits; what is next to nothing as nothing."""
    if value < 0.0005:
        return "0"
    if value >= 100:
        digits = 2 - len(str(int(value)))
        return f"{round(value, digits):,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def size(value):
    """Write bytes likewise."""
    unit, name = next(((unit, name) for unit, name in UNITS if value >= unit), (1, "B"))
    return f"{number(value / unit)} {name}"


def quantity(value, unit):
    """Write a number with its unit."""
    if unit in {"B", "B/s"}:
        return size(value) + unit.removeprefix("B")
    return f"{number(value)} {unit}".strip()


def section(figures, fleet):
    """Return the section, without an empty line at either end."""
    words = [_filled(text) for text in (*_words(figures, fleet), _held(figures.held))]
    parts = (
        HEADING,
        _filled(_head(figures, fleet)),
        _coefficients(figures),
        _store(figures, fleet),
        _limits(figures, fleet),
        *words,
    )
    return "\n\n".join(part for part in parts if part)


def _filled(text):
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False, break_long_words=False)


def _head(figures, fleet):
    machine = figures.machine
    return f"""Worked for {fleet.gateways} gateways (each of `--workers` is one), {fleet.keys:,} keys of
{fleet.organizations:,} organizations, {fleet.deployments} deployments (replicas of {fleet.backends} backends) and
{fleet.streams:,} open streams of {fleet.seconds:g} s with {fleet.events:g} events/s: {fleet.calls:,.0f} calls/s,
{fleet.streams * fleet.events:,.0f} events/s. {fleet.active:,} keys call within an hour, each at {fleet.spread}
backends; an average hour has a third of this load. A shard of the store is one core, {size(SHARD.memory)} and
10 Gbit/s; a gateway one core, {size(POD.memory)} and {POD.descriptors:,} file descriptors. Every
coefficient is measured by `python -m tests.bench.capacity`, and held by [its test](tests/bench/test_capacity.py); what
follows from them is [a module](tests/bench/capacity_model.py), where another
fleet is other arguments. Processor time is of one core of an {machine["cpu"]} under CPython
{machine["python"]}, where a plain call takes {number(figures.gateway["call_us"])} us: on the cores of "How fast it is"
it takes 117."""


def _coefficients(figures):
    costs, slopes, sizes, of = figures.costs, figures.slopes, figures.sizes, figures.gateway
    rows = [
        ("admission, alone", _cost(costs["admission"])),
        ("settlement, alone", _cost(costs["settlement"])),
        ("a call whose script is shared by 16", _cost(costs["together"])),
        (f"heartbeat of a gateway and an organization, as one of {TOGETHER}", _cost(costs["heartbeat"])),
        (
            "... for each gateway that it looks at; each open call",
            f"{_cost(slopes['heartbeat_gateway'])}; {_cost(slopes['heartbeat_open'])}",
        ),
        ("peers' beat", _cost(costs["beat"])),
        ("... a deployment told; one read", f"{_cost(slopes['beat_told'])}; {_cost(slopes['beat_read'])}"),
        (
            "wait for changes; read a key; look after records; after the audit and uses",
            "; ".join(_us(costs[n]) for n in ("poll", "key_read", "upkeep", "forget")),
        ),
        ("in the store: a key; its meters; an organization with a team", _sizes(sizes, "key", "level", "organization")),
        (
            "... an open call; a slot; a settled record; an hour's sums of a key and a backend",
            _sizes(sizes, "reservation", "slot", "record", "sum"),
        ),
        (
            "in a gateway: an open stream; a waiting call; a known key; itself",
            _sizes(of, "stream", "waiting", "key", "idle"),
        ),
        (
            "a gateway's core: a plain call; an event of its own",
            f"{number(of['call_us'])} us; {number(of['event_us'])} us",
        ),
        (
            "descriptors of a stream; connections to the store",
            f"{number(of['stream_descriptors'])}; {of['connections']:.0f}",
        ),
    ]
    return "| one of | takes (the store's core; bytes to it + from it) |\n|---|---|\n" + _table(rows)


def _us(cost):
    return f"{number(cost.us)} us"


def _cost(cost):
    if cost.received + cost.sent < 1:
        return _us(cost)
    return f"{_us(cost)}, {number(max(0, cost.received))} + {number(max(0, cost.sent))} B"


def _sizes(sizes, *names):
    return "; ".join(size(sizes[name]) for name in names)


def _table(rows):
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _store(figures, fleet):
    rows = loads(figures, fleet)
    total = together(rows)
    lines = [
        (
            row.name,
            f"{number(row.rate)}",
            f"{number(row.cost.commands)}",
            number(row.cores),
            f"{size(row.cost.received)} + {size(row.cost.sent)}",
            row.where,
        )
        for row in rows
    ]
    lines.append(
        (
            "**together**",
            "",
            number(total.commands),
            f"**{number(total.us / 1e6)}**",
            f"{size(total.received)} + {size(total.sent)}",
            "",
        )
    )
    head = "| the store a second | times | commands | cores | bytes to + from | spread by |\n"
    head += "|---|---:|---:|---:|---:|---|\n"
    kept = memory(figures, fleet)
    held = [(name, number(count), size(total)) for name, count, total in kept]
    held.append(("**together**", "", f"**{size(sum(total for _, _, total in kept))}**"))
    return head + _table(lines) + "\n\n| the store keeps | how many | bytes |\n|---|---:|---:|\n" + _table(held)


def _limits(figures, fleet):
    rows = [
        (one.name, quantity(one.need, one.unit), quantity(one.has, one.unit), f"{number(one.headroom)} x", one.remedy)
        for one in limits(figures, fleet)
    ]
    head = "| limit | this fleet | one has | headroom | what helps |\n|---|---:|---:|---:|---|\n"
    return f"What breaks first stands first:\n\n{head}{_table(rows)}"


def _words(figures, fleet):
    return _server(figures, fleet), _slot(figures, fleet), _peers(figures, fleet), _core(figures, fleet)


def _server(figures, fleet):
    return f"""**One server is not enough: a cluster of {shards(figures, fleet)} shards is,** each with half of
its memory and of its core left. Most of what is in them are the sums of hours: each is of one key, one model and one
backend of the file, however many replicas that has; with calls of {fleet.active:,} keys to all {fleet.backends}
backends instead of {fleet.spread} they would fill {size(whole_sums(figures, fleet))}. Records end at {DAYS} days or
1 GiB an organization.
Heartbeats, gateways x organizations / 5 s, take about as much of the store's cores as calls do. Each is the same work
however many gateways there are: where more than {FEW} call for an organization, {TWICE / TURN:g} a second look at all
of them. A load balancer that sends an organization to few gateways takes their number down."""


def _slot(figures, fleet):
    many = fleet.gateways
    alone, full = one_organization(figures, many)
    call, beat = number(of_call(figures).us), number(of_heartbeat(figures, many, 0).us)
    return f"""**One organization is one slot,** and so one shard's core. A call of it takes {call} us there while each
goes alone, however many gateways there are: {number(alone.calls)} calls/s. Where the core is full, scripts wait and 16
calls share one: {number(full.calls)} calls/s; a round of {many} full ones takes {number(full.round * 1000)} ms, and the
`store.deadline` is 250. A heartbeat of it takes {beat} us. The records of all keys and tenants share another slot, the
peers' rows a third: these two do not spread."""


def _peers(figures, fleet):
    many, wide = fleet.gateways, 10 * fleet.deployments
    rate = beats(many) * many
    beat, larger = of_beat(figures, many, fleet.deployments), of_beat(figures, many, wide)
    return f"""**Peers** beat 10 times a second each and 100 times a second all together, whichever is less: {many}
gateways every {1 / beats(many):.2g} s, and each then reads {size(beat.sent)} where every load has changed, in all
{size(beat.sent * rate)}/s. That is gateways x deployments, and a fleet that grows has more of both: with {wide:,}
deployments {size(larger.sent * rate)}/s and {number(larger.us * rate / 1e6)} of the shard's core. With {CHANGES:,}
gateways the stream of changes is shorter than a beat, and everybody reads everything."""


def _core(figures, fleet):
    calls, events, rest = (number(100 * share) for share in gateway_core(figures, fleet))
    whole = number(100 * sum(gateway_core(figures, fleet)))
    cores = number(fleet.streams * fleet.events * figures.gateway["event_us"] / 1e6)
    return f"""**A gateway's core** is used to {whole} %: {calls} % for calls, {events} % for events that come one
by one, {rest} % for heartbeats, peers and changes. {fleet.streams:,} streams want {cores} cores for {fleet.events:g}
events a second each, and fewer where an engine sends several at once."""


def _held(held):
    if not held:
        return ""
    late, worst = number(held["p50_ms"]), number(held["p99_ms"])
    return f"""**Held open:** {held["streams"]:,.0f} streams with an event every {held["every"]:g} s through
{held["workers"]:.0f} workers (`python -m tests.bench.streams`): {held["finished"]:,.0f} ended whole, {held["kb"]:g} KB
of memory a stream, {held["cores"]:g} cores of the workers, an event {late} ms late (p99 {worst} ms) on two cores that
upstream, callers and store had a part of."""


def place(text, made):
    """Return the page with the section as it was made, at its place; ValueError where it has none."""
    found = re.search(rf"^{HEADING}\n.*?(?=^##)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no {HEADING}")
    return text[: found.start()] + made + "\n\n" + text[found.end() :]


def write(figures, fleet):
    """Write the section into README."""
    README.write_text(place(README.read_text(), section(figures, fleet)))
