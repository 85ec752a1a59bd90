"""A fleet's capacity: its arithmetic, and that README's numbers are what it comes to."""

import re
from dataclasses import replace

import pytest

from tests.bench import capacity_page
from tests.bench.capacity_model import (
    CHANGES,
    FEW,
    TURN,
    Cost,
    Figures,
    Fleet,
    beats,
    gateway_core,
    limits,
    load,
    loads,
    looks,
    memory,
    of_beat,
    of_call,
    of_heartbeat,
    one_organization,
    shards,
    together,
    unknown,
)
from tests.house import ROOT

OPERATIONS = ("admission", "settlement", "heartbeat", "upkeep", "key_read", "poll", "roll", "use", "forget", "beat")
SLOPES = ("heartbeat_gateway", "heartbeat_open", "beat_told", "beat_read")
THINGS = ("key", "organization", "use", "level", "reservation", "count", "slot", "record", "sum")
ONE = ("call_us", "event_us", "stream", "waiting", "idle", "key", "descriptors", "stream_descriptors", "connections")

PLAIN = Figures(
    costs={name: Cost(100, 10, 50, 20, 1) for name in OPERATIONS} | {"together": Cost(40, 10, 50, 20, 1 / 16)},
    slopes={name: Cost(1, 1, 2, 3, 0) for name in SLOPES},
    sizes=dict.fromkeys(THINGS, 100.0),
    gateway=dict.fromkeys(ONE, 1.0),
    yards={"store": 1.0, "ours": 1.0},
)
"""Coefficients that one can reckon with in one's head."""

SMALL = Fleet(gateways=10, keys=1_000, organizations=20, deployments=5, streams=300, active=100, spread=2, mean=0.5)


def of(name, fleet, figures=PLAIN):
    return next(row for row in loads(figures, fleet) if row.name == name)


def test_a_call_is_two_scripts():
    """Of 100 each."""
    assert of_call(PLAIN) == Cost(200, 20, 100, 40, 2)


def test_calls_follow_from_open_streams_and_how_long_they_last():
    """300 of 30 s are 10 calls a second, each of two commands."""
    row = of("admission and settlement, each alone", SMALL)

    assert (row.rate, row.cost.commands, row.cores) == (10, 20, 2000e-6)


def test_of_many_gateways_two_heartbeats_a_second_look_at_all_for_each_organization():
    """Every one does among ten, who have just these two."""
    assert [looks(count) for count in (1, 10, 20, 100)] == [1, 1, 0.5, 0.1]


def test_twice_the_gateways_are_twice_the_heartbeats_work():
    """There are twice as many, and as many look as before, at twice as many."""
    few, many = (of("heartbeats", replace(Fleet(), gateways=count)).cost for count in (1_000, 2_000))

    assert of("heartbeats", SMALL).rate == 40
    assert many.sent / few.sent == pytest.approx(2, rel=0.02)
    assert many.us / few.us == pytest.approx(2, rel=0.02)


def test_a_heartbeat_tells_of_every_open_call():
    """100, nine for the gateways, seven for the calls; of 41 gateways ten look in five seconds."""
    assert of_heartbeat(PLAIN, 10, 7).us == 116
    assert of_heartbeat(PLAIN, 41, 7).us == pytest.approx(107 + 40 * 10 / 41)


def test_peers_beat_a_hundred_times_a_second_at_most():
    """So from ten gateways on what each reads grows with them, and how often does not."""
    assert [round(count * beats(count)) for count in (1, 5, 10, 100, 1000)] == [10, 50, 100, 100, 100]


def test_a_beat_reads_what_all_others_have_told():
    """With five deployments: five told, 45 read."""
    assert of_beat(PLAIN, 10, 5).us == 150


def test_a_gateway_asks_for_keys_only_beyond_those_that_it_remembers():
    """At four times as many, three of four calls ask."""
    assert [unknown(replace(SMALL, active=count)) for count in (0, 50_000, 100_000, 400_000)] == [0, 0, 0, 0.75]


def test_records_end_at_their_days_or_at_a_gibibyte_an_organization():
    """5 a second for seven days; of far more calls, 20 GiB."""
    records = {fleet: next(row for row in memory(PLAIN, fleet) if "records" in row[0]) for fleet in (SMALL, BUSY)}

    assert records[SMALL][1:] == (5 * 7 * 86_400, 5 * 7 * 86_400 * 100)
    assert records[BUSY][2] == 20 << 30


BUSY = replace(SMALL, streams=3_000_000)


def test_sums_are_of_a_key_a_backend_and_an_hour():
    """Half of 100 keys at two backends each, for 9,600 hours, however many replicas those have."""
    *_, sums = memory(PLAIN, SMALL)

    assert sums[1:] == (960_000, 96_000_000)
    assert memory(PLAIN, replace(SMALL, deployments=5_000))[-1] == sums


def test_an_organization_is_bound_by_one_core_with_its_heartbeats_taken_off():
    """Two a second at 109 us; then calls alone at 200 us, or 16 in a script of 640."""
    alone, full = one_organization(PLAIN, 10)

    assert alone.calls == pytest.approx((1e6 - 218) / 200)
    assert alone.round == pytest.approx(10 * 100e-6)
    assert full.calls == pytest.approx((1e6 - 218) / 640 * 16)
    assert full.round == pytest.approx(10 * 640e-6)


def test_a_gateways_core_has_its_share_of_calls_and_events():
    """One call and 600 events a second at one microsecond each."""
    calls, events, rest = gateway_core(PLAIN, SMALL)

    assert (calls, events) == (pytest.approx(1e-6), pytest.approx(600e-6))
    assert rest == pytest.approx((together(loads(PLAIN, SMALL)).ours - 10 * of_call(PLAIN).ours) / 10 / 1e6)


def test_what_breaks_first_stands_first():
    """By how many times the need there is."""
    found = [limit.headroom for limit in limits(PLAIN, SMALL)]

    assert found == sorted(found)
    assert shards(PLAIN, SMALL) == 1


def test_a_place_of_the_store_has_only_its_own_work():
    """The three places together are all of it."""
    rows = loads(PLAIN, SMALL)
    places = [together(rows, where).us for where in ("organization", "the shard of keys", "the shard of peers")]

    assert all(places)
    assert sum(places) == pytest.approx(together(rows).us)


def test_the_numbers_of_the_scripts_are_those_that_they_say():
    """Those that the model cannot import."""
    peers = (ROOT / "gateway" / "peers" / "beat.lua").read_text()
    leases = (ROOT / "gateway" / "ledger" / "script" / "leases.lua").read_text()

    assert int(re.search(r"local CHANGES, .* = (\d+),", peers)[1]) == CHANGES
    assert int(re.search(r"local FEW = (\d+)", leases)[1]) == FEW
    assert int(re.search(r"local TURN = (\d+)", leases)[1]) == 1000 * TURN


def test_the_coefficients_are_those_that_the_model_wants():
    """No more, and no fewer."""
    figures = load()

    assert set(figures.costs) == set(PLAIN.costs)
    assert [set(part) for part in (figures.slopes, figures.sizes, figures.gateway)] == [
        set(SLOPES),
        set(THINGS),
        set(ONE),
    ]


def test_the_page_has_the_numbers_that_follow():
    """Whoever changes a constant writes it again: `python -m tests.bench.capacity --page`."""
    page = capacity_page.README.read_text()

    assert capacity_page.place(page, capacity_page.section(load(), Fleet())) == page


def test_what_the_page_says_in_words_is_so():
    """A store's core and memory break first, most of memory are sums, and heartbeats take about as much as calls."""
    figures, fleet = load(), Fleet()
    kept = [size for _, _, size in memory(figures, fleet)]

    first, second, *others = limits(figures, fleet)
    assert {first.name, second.name} == {"core of one store server", "memory of one store server"}
    assert second.headroom < 1 / 2 < others[0].headroom
    assert kept[-1] > sum(kept) / 2
    beats, calls = (of(name, fleet, figures) for name in ("heartbeats", "admission and settlement, each alone"))
    assert 0.75 < beats.cost.us / calls.cost.us < 1.33


def test_a_page_is_written_only_between_two_headings():
    """And not at all where it has no such heading."""
    page = "# A\n\n### Capacity\n\nold\n\n## B\n"

    assert capacity_page.place(page, "### Capacity\n\nnew") == "# A\n\n### Capacity\n\nnew\n\n## B\n"
    with pytest.raises(ValueError, match="no ### Capacity"):
        capacity_page.place("# A\n", "new")


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0001, "0"), (0.0347, "0.035"), (1.26, "1.3"), (47.6, "48"), (3_333, "3,300"), (1_960_000, "2,000,000")],
)
def test_numbers_have_two_digits(value, written):
    """Nobody should believe more of them."""
    assert capacity_page.number(value) == written
