"""The report as a page: goals first, then every figure that they rest on.

Law: what does not hold is said as plainly as what does, with by how much and where.
"""

from statistics import fmean

from policies.simulation.comparing import difference
from policies.simulation.hosted import Endpoint
from policies.simulation.outcome import LEAST_TARGET, PACE_TARGET, TOKEN_TARGET
from tests.simulation.points import (
    ABLATED,
    CURVE,
    FAULTED,
    FAULTS,
    LOADS,
    ORACLE,
    OURS,
    PER_MINUTE,
    RIVAL,
    TERMS,
    THEIRS,
    VALUES,
    WORKLOADS,
)
from tests.simulation.runs import HARDWARE, REPLICAS
from tests.simulation.verdicts import dollars, goals, interval, spill_name, spills

POLICIES = (OURS, *THEIRS, ORACLE)


def page(results, code):
    """Return the whole page."""
    parts = [_head(results, code), _goals(results), _loads(results), _curve(results), _failures(results)]
    return "\n\n".join([*parts, _ablations(results)]) + "\n"


def table(head, rows):
    """Return a table in Markdown, numbers to the right."""
    line = "|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)])


def _head(results, code):
    plan, machine, end = results.plan, REPLICAS[0].hardware, Endpoint()
    rate, pace = f"{machine.prefill_rate:,.0f}", f"{1000 * machine.step:g}"
    return f"""# Routing, simulated

{plan.seeds} seeds of {plan.calls:,} calls, {len(REPLICAS)} replicas of {HARDWARE}, one gateway; every policy meets the
same calls. Differences are paired by seed, with their 95 % interval (Student's t). Goodput: the share of calls whose
first token came within max({LEAST_TARGET:g} s, prompt tokens / {PACE_TARGET:,.0f}) and whose output tokens took no more
than {1000 * TOKEN_TARGET:.0f} ms each, on average; a failed call is not among them. Load 1.0 is the rate at which the
replicas would be just busy if every call found whatever any of them has cached.

Nobody measured these machines: a replica prefills {rate} tokens/s, takes {pace} ms a decode step and holds
{machine.room:,} tokens of KV; the hosted endpoint begins after {end.delay[0]:g} s (median), prefills
{end.prefill_rate:,.0f} tokens/s and fails {100 * end.errors:g} % of calls. Believe the order of policies and roughly
their distance, not the seconds.

Again: `python -m tests.simulation.report --seeds {plan.seeds} --calls {plan.calls} --out FOLDER` (code {code})."""


def _goals(results):
    lines = ["## Goals", ""]
    for goal in goals(results):
        lines.append(f"- **{'holds' if goal.met else 'does not hold'}**: {goal.name}")
        lines += [f"  - {one}" for one in goal.told]
    return "\n".join(lines)


def _loads(results):
    parts = ["## Goodput over load", "![goodput over load](goodput.svg)"]
    for workload in WORKLOADS:
        knee = results.knee(workload)
        parts += [f"### {workload}" + (f" (knee at {knee})" if knee else ""), _load_table(results, workload)]
    return "\n\n".join(parts)


def _load_table(results, workload):
    rows = []
    for policy in POLICIES:
        means = [fmean(results.goodput(workload, load, policy)) for load in LOADS]
        rows.append([f"**{policy}**" if policy == OURS else policy, *(f"{mean:.1f}" for mean in means)])
    best = [results.best(workload, load) for load in LOADS]
    rows.append(
        [
            "over the best baseline",
            *(interval(results.over(b, workload, at)) for b, at in zip(best, LOADS, strict=True)),
        ]
    )
    rows.append(["which is", *best])
    rows.append([f"over {RIVAL}", *(interval(results.over(RIVAL, workload, load)) for load in LOADS)])
    shares = [results.share_of_oracle(workload, load) for load in LOADS]
    rows.append(["share of the oracle's", *("-" if share is None else f"{share:.1%}" for share in shares)])
    rows.append(["first token, 95 % within, s: ours", *_p95(results, workload, lambda _: OURS)])
    rows.append(["... the best baseline's", *_p95(results, workload, lambda load: results.best(workload, load))])
    rows.append(["prompt tokens cached, %: ours", *_hits(results, workload, lambda _: OURS)])
    rows.append(["... the best baseline's", *_hits(results, workload, lambda load: results.best(workload, load))])
    return table(["load", *map(str, LOADS)], rows)


def _p95(results, workload, policy):
    return [f"{results.mean(lambda o: o.ttft.p95, workload, load, policy(load)):.2f}" for load in LOADS]


def _hits(results, workload, policy):
    return [f"{100 * results.mean(lambda o: o.hits, workload, load, policy(load)):.1f}" for load in LOADS]


def _curve(results):
    workload, load = CURVE
    ours = []
    for policy in (OURS, ORACLE):
        for value in VALUES:
            figures = (
                fmean(results.goodput(*CURVE, policy, value=value)),
                results.mean(dollars, *CURVE, policy, value=value),
                100 * results.mean(lambda o: o.hosted, *CURVE, policy, value=value),
                100 * results.mean(lambda o: o.failed, *CURVE, policy, value=value),
            )
            good, paid, hosted, failed = figures
            ours.append([policy, f"{value:g}", f"{good:.1f}", f"{paid:.2f}", f"{hosted:.1f}", f"{failed:.2f}"])
    theirs = [
        [
            one.policy,
            spill_name(one.bound),
            f"{one.goodput:.1f}",
            f"{one.dollars:.2f}",
            "-" if one.value is None else f"{one.value:g}",
            "-" if one.value is None else interval(one.over),
        ]
        for one in spills(results)
    ]
    head = ["policy", "USD a second", "goodput, %", "USD for 1,000 calls", "hosted, %", "failed, %"]
    beside = ["baseline", "hosted endpoint", "goodput, %", "USD for 1,000 calls", "our USD a second", "ours over it"]
    return "\n\n".join(
        [
            "## Cost and goodput",
            f"{workload} at {load}, and a hosted endpoint that takes {PER_MINUTE} calls a minute.",
            "![goodput over cost](curve.svg)",
            table(head, ours),
            "Ours beside each baseline: at the value of time whose cost is no higher and whose goodput is best.",
            table(beside, theirs),
        ]
    )


def _failures(results):
    workload, load = FAULTED
    rows = []
    for fault in FAULTS:
        asked = {"fault": fault}
        goods = [fmean(results.goodput(*FAULTED, policy, **asked)) for policy in POLICIES]
        best = results.best(*FAULTED, **asked)
        rows.append(
            [
                str(fault) or "nothing",
                *(f"{good:.1f}" for good in goods),
                f"{interval(results.over(best, *FAULTED, **asked))} {best}",
                f"{100 * results.mean(lambda o: o.failed, *FAULTED, OURS, **asked):.2f}",
                f"{results.mean(lambda o: o.attempts, *FAULTED, OURS, **asked):.3f}",
            ]
        )
    head = ["what goes wrong", *POLICIES, "over the best baseline", "our failed, %", "our attempts a call"]
    text = f"""## Failures

{workload} at {load}, goodput in %. From 0.3 to 0.6 of the run one replica of {len(REPLICAS)} is down (crash), refuses
all with 503 (hole) or 429 (storm), or works at a third of its speed (slow); or one hangs for 20 s (stall) or loses its
cache (cold) at 0.3; or one of two gateways is dead (gateway)."""
    return f"{text}\n\n{table(head, rows)}"


def _ablations(results):
    rows = []
    for workload, load, fault in ABLATED:
        whole = results.goodput(workload, load, OURS, fault=str(fault))
        cells = [f"{workload} at {load}" + (f", {fault}" if fault else ""), f"{fmean(whole):.1f}"]
        for term in TERMS:
            lacking = results.goodput(workload, load, OURS, fault=str(fault), without=term)
            cells.append(interval(difference(lacking, whole)))
        rows.append(cells)
    head = ["goodput, %", "whole score", *(f"without {term}" for term in TERMS)]
    text = "## Terms\n\nWhat each term of the score is worth: by how much goodput changes without it."
    return f"{text}\n\n{table(head, rows)}"
