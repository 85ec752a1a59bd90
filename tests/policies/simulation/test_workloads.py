import itertools
import math
import statistics
from collections import Counter
from random import Random

import pytest

from policies.simulation import workloads
from policies.simulation.calls import BLOCK
from policies.simulation.workloads import generate

NAMES = ("conversation", "code", "agent", "images", "reasoning")


def quantile(values, share):
    return sorted(values)[int(share * (len(values) - 1))]


def variation(calls):
    """Return the coefficient of variation of the times between arrivals."""
    gaps = [later.at - call.at for call, later in itertools.pairwise(calls)]
    return statistics.stdev(gaps) / statistics.mean(gaps)


def hit(calls):
    """Return the share of blocks that a cache without end has when they come."""
    seen, hits = set(), 0
    for call in calls:
        hits += next((count for count, block in enumerate(call.blocks) if block not in seen), len(call.blocks))
        seen.update(call.blocks)
    return hits / sum(len(call.blocks) for call in calls)


def lengths(calls):
    return [call.prompt for call in calls], [call.output for call in calls]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_dice_make_the_same_calls(name):
    """Policies are compared over the same calls, and a figure of a report can be made again."""
    assert generate(name, Random(4), 300, 5.0) == generate(name, Random(4), 300, 5.0)
    assert generate(name, Random(4), 300, 5.0) != generate(name, Random(5), 300, 5.0)


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_well_formed_and_in_order(name):
    """Engines and routers go by this: numbers count up, times do not go back, and each 512 tokens have a block."""
    calls = generate(name, Random(1), 2000, 8.0)
    assert [call.number for call in calls] == list(range(2000))
    assert calls == sorted(calls, key=lambda call: call.at)
    assert calls[0].at >= 0.0
    assert all(len(call.blocks) == -(-call.prompt // BLOCK) for call in calls)
    assert all(len(set(call.blocks)) == len(call.blocks) for call in calls)
    assert all(call.prompt >= 1 and call.answer >= 1 for call in calls)
    assert all((call.images > 0) == (name == "images") for call in calls)
    assert all(call.reasoning == (name == "reasoning") for call in calls)


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_is_the_one_asked_for(name):
    """Load is told as a share of capacity: a run at another rate would stand at another point of the plot."""
    calls = generate(name, Random(2), 6000, 10.0)
    assert 6000 / calls[-1].at == pytest.approx(10.0, rel=0.12)


@pytest.mark.parametrize("name", NAMES)
def test_a_fifth_of_the_tenants_makes_four_fifths_of_the_tokens(name):
    """ServeGen's skew: fairness and affinity are tested by callers that differ."""
    tokens = Counter()
    for call in generate(name, Random(3), 6000, 10.0):
        tokens[call.tenant] += call.prompt + call.output
    heavy = sum(count for _, count in tokens.most_common(workloads.HEAVY))
    assert heavy / tokens.total() == pytest.approx(0.8, abs=0.07)


def test_conversations_are_as_mooncakes():
    """Mean 12,035, P50 6,909, P90 27,367; answers mean 343, P50 350, P95 698; Poisson; a hit of .366 without end."""
    calls = generate("conversation", Random(1), 12_031, 3.4)
    prompts, outputs = lengths(calls)
    assert statistics.mean(prompts) == pytest.approx(12_035, rel=0.08)
    assert quantile(prompts, 0.5) == pytest.approx(6_909, rel=0.2)
    assert quantile(prompts, 0.9) == pytest.approx(27_367, rel=0.12)
    assert statistics.mean(outputs) == pytest.approx(343, rel=0.03)
    assert quantile(outputs, 0.5) == pytest.approx(350, rel=0.05)
    assert quantile(outputs, 0.95) == pytest.approx(698, rel=0.08)
    assert variation(calls) == pytest.approx(1.0, abs=0.06)
    assert hit(calls) == pytest.approx(0.366, abs=0.03)
    assert len(calls) / len({call.session for call in calls}) == pytest.approx(1.632, rel=0.04)


def test_a_short_run_has_the_hits_of_a_long_one():
    """Gaps shrink with the run: policies are compared in runs of minutes, where turns are minutes apart."""
    hits = [hit(generate("conversation", Random(seed), 1500, 6.0)) for seed in range(8)]
    assert statistics.mean(hits) == pytest.approx(0.366, abs=0.04)


def test_code_is_as_azures():
    """Mean 2,048, at most 7,437; answers of some tens of tokens; arrivals of a CV near 10; no prompt like another."""
    calls = generate("code", Random(1), 8_819, 2.57)
    prompts, outputs = lengths(calls)
    assert statistics.mean(prompts) == pytest.approx(2_048, rel=0.08)
    assert max(prompts) == 7_437
    logs = [math.log(output) for output in outputs]
    assert statistics.mean(logs) == pytest.approx(2.79, abs=0.05)
    assert statistics.stdev(logs) == pytest.approx(0.85, abs=0.05)
    assert 7.0 < variation(calls) < 14.0
    assert hit(calls) == 0.0


def test_agents_go_on_and_on_with_what_they_have():
    """Vibe's shape: 6,000 to 10,000 tokens of tools, 1,000 to 3,000 more each turn, and nine tenths of it cached."""
    calls = generate("agent", Random(1), 12_000, 10.0)
    prompts, outputs = lengths(calls)
    assert hit(calls) > 0.88
    assert statistics.mean(prompts) == pytest.approx(27_000, rel=0.15)
    assert min(prompts) >= 7_000
    assert max(prompts) <= workloads.AGENT_COMPACTS + workloads.AGENT_GROWTH[1]
    assert sum(output <= 80 for output in outputs) / len(outputs) == pytest.approx(0.2 + 0.8 * 30 / 550, abs=0.02)
    turns = Counter(call.session for call in calls)
    assert 8 < statistics.mean(turns.values()) < 13
    grown = {}
    for call in calls:
        if call.session in grown and call.prompt > grown[call.session]:
            assert 1_000 <= call.prompt - grown[call.session] <= 3_000
        grown[call.session] = call.prompt


def test_agents_of_a_tenant_share_their_tools():
    """Sessions begin with their organization's instructions, which a replica has prefilled for another before."""
    calls = generate("agent", Random(1), 2000, 10.0)
    begins = {}
    for call in calls:
        begins.setdefault(call.tenant, set()).add(call.blocks[: workloads.AGENT_TOOLS[0] // BLOCK])
    assert all(len(same) == 1 for same in begins.values())
    assert len({begin for same in begins.values() for begin in same}) == len(begins)


def test_an_agents_history_is_thrown_away_when_it_is_too_long(monkeypatch):
    """Vibe compacts at 200,000 tokens: prompts past the context window would all be refused."""
    monkeypatch.setattr(workloads, "AGENT_COMPACTS", 20_000)
    assert max(call.prompt for call in generate("agent", Random(1), 3000, 10.0)) <= 23_000


def test_images_are_as_servegens():
    """Text P50 94 and image tokens P50 432, 1.5 images a call, answers mean 128 and P95 335, clients of their own."""
    calls = generate("images", Random(1), 8000, 9.5)
    prompts, outputs = lengths(calls)
    assert statistics.mean(prompts) == pytest.approx(570 + 594, rel=0.12)
    assert statistics.mean(outputs) == pytest.approx(128, rel=0.06)
    assert quantile(outputs, 0.95) == pytest.approx(335, rel=0.08)
    assert statistics.mean(call.images for call in calls) == pytest.approx(1.5, rel=0.05)
    assert variation(calls) > 1.05


def test_reasoning_is_as_servegens():
    """Answers mean 1,690, P50 812, P95 6,519; prompts P50 266: decoding is the load."""
    calls = generate("reasoning", Random(1), 8000, 16.0)
    prompts, outputs = lengths(calls)
    assert statistics.mean(outputs) == pytest.approx(1_690, rel=0.08)
    assert quantile(outputs, 0.5) == pytest.approx(812, rel=0.08)
    assert quantile(outputs, 0.95) == pytest.approx(6_519, rel=0.12)
    assert quantile(prompts, 0.5) == pytest.approx(266, rel=0.1)
    assert statistics.mean(prompts) == pytest.approx(1_607, rel=0.12)
    assert variation(calls) > 1.1
