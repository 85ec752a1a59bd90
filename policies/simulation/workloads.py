"""Calls as production has them: five shapes, each drawn from published figures.

Law: every figure that shapes a workload is a constant with its source; the same dice give the same calls. Calls come
whether earlier ones were answered or not (an open loop), so that a slow fleet cannot spare itself work. A fifth of the
tenants makes four fifths of the calls.

Sources: Mooncake is `FAST25-release/traces/conversation_trace.jsonl` of kvcache-ai/Mooncake, 12,031 calls of an hour;
Azure is `AzureLLMInferenceTrace_code.csv` of Azure/AzurePublicDataset, 2023; ServeGen is `data/` of alibaba/ServeGen.
A pair (mu, sigma) is of the logarithm of tokens.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Literal

from policies.simulation.calls import BLOCK, Call

Name = Literal["conversation", "code", "agent", "images", "reasoning"]

TENANTS, HEAVY, HEAVY_SHARE = 20, 4, 0.8
"""Tenants of a run, how many of them are heavy, and what share of all they make (ServeGen's m-large: the largest 20 of
162 clients make 78 %)."""

CONVERSATION_TURNS = 1.70
"""Calls to a session. Mooncake has 1.632, where a call goes on from the one whose beginning it shares beyond the first
block: as many as an hour shows of sessions of 1.70, since some began before it and some go on."""
CONVERSATION_FIRST, CONVERSATION_MOST = (8.57, 1.24), 126_195
"""A session's first prompt, (mu, sigma), and the longest of all: Mooncake (first prompts: P50 5,264, mean 10,765)."""
CONVERSATION_GROWTH = (6.37, 1.47)
"""Tokens by which the next prompt is longer, (mu, sigma): Mooncake. It contains the answer, so it is no shorter."""
CONVERSATION_BACK = 0.15
"""Share of later turns that take back some of what was said, to anywhere: Mooncake."""
CONVERSATION_OUTPUT = (
    *((0.0, 1), (0.05, 10), (0.1, 24), (0.25, 156), (0.5, 350)),
    *((0.75, 472), (0.9, 597), (0.95, 698), (0.99, 1115), (1.0, 2000)),
)
"""Quantiles of answers: Mooncake. They follow no lognormal: their median is their mean."""
CONVERSATION_GAP, CONVERSATION_GAP_MOST = (4.80, 1.06), 1800.0
"""Logarithm of the seconds between two turns, (mu, sigma): Mooncake (5, 25, 50, 75, 95 %: 30, 66, 123, 264, 615)."""
CONVERSATION_HOUR = 3537.0
"""Seconds that the trace spans. A shorter run is that hour in small, as a replay at speed is: gaps shrink with it, or
most turns would find that their beginning was before the run's."""

CODE_INPUT, CODE_MOST, CODE_OUTPUT = (7.00, 1.36), 7437, (2.79, 0.85)
"""Prompts and answers, (mu, sigma), and the longest prompt: Azure."""
CODE_CV = 10.0
"""Of the times between arrivals: Azure (13.2; 9.6 without the 8 longest gaps)."""

AGENT_TURNS, AGENT_TOOLS, AGENT_GROWTH = 12.0, (6_000, 10_000), (1_000, 3_000)
"""Turns to a session; tokens of instructions and tools, the same for all sessions of a tenant; tokens that a turn adds:
the shape of Mistral Vibe's calls, from reading its source; no trace is published."""
AGENT_TOOL_SHARE, AGENT_TOOL_OUTPUT, AGENT_OUTPUT = 0.2, (30, 80), (50, 600)
"""Share of answers that only call a tool; tokens of those, and of the others: likewise."""
AGENT_THINK, AGENT_TOKEN_TIME = (math.log(8.0), 1.0), 0.02
"""Logarithm of the seconds from an answer to the next turn, (mu, sigma), median 8 s; seconds a token that the answer is
taken to last: likewise."""
AGENT_COMPACTS = 200_000
"""Tokens of prompt at which history is thrown away: Mistral Vibe's `auto_compact_threshold`."""

IMAGES_TEXT, IMAGES_TOKENS, IMAGES_OUTPUT = (4.543, 1.898), (6.068, 0.70), (4.562, 0.761)
"""(mu, sigma) of ServeGen's mm-image: text mean 570, P50 94; image tokens mean 594, P50 432, P95 1232; answers mean
128, P95 335."""
IMAGES_MORE = 1 / 3
"""The chance of one more image: geometric with ServeGen's mean of 1.5 a call."""
IMAGES_CVS = (1.0, 1.0, 1.0, 4.0)
"""Of clients' times between arrivals, a quarter of the clients each: ServeGen's mm-image, P50 1.0, P75 4.0."""

REASONING_INPUT, REASONING_OUTPUT = (5.583, 1.897), (6.700, 1.211)
"""(mu, sigma) of ServeGen's deepseek-r1: prompts mean 1607, P50 266; answers mean 1690, P50 812 (drawn so, P90 is 3,830
and P99 13,600; published 4,174 and 13,350)."""
REASONING_CVS = (1.02, 1.02, 1.9, 5.6)
"""Of clients' times between arrivals, a quarter of the clients each: ServeGen's deepseek-r1, P50, P75, P90."""

LONGEST = 100_000
"""Tokens past which nothing is drawn where the source names no most: the context window is to be kept."""


def generate(name: Name, dice: Random, calls: int, rate: float) -> list[Call]:
    """Return so many calls of a workload, `rate` of them a second, in order of arrival.

    A bursty workload keeps that rate over the whole run, too, or loads would differ by a quarter between seeds.
    """
    return _WORKLOADS[name](dice, calls, rate)


def tenant_of(dice: Random) -> int:
    """Draw whose call, or whose session, it is: the first ones are the heavy ones."""
    return dice.randrange(HEAVY) if dice.random() < HEAVY_SHARE else dice.randrange(HEAVY, TENANTS)


def _conversation(dice: Random, calls: int, rate: float) -> list[Call]:
    scale = min(1.0, calls / rate / CONVERSATION_HOUR)
    mean = scale * _mean(CONVERSATION_GAP)
    made = _Sessions(dice, shared=dict.fromkeys(range(TENANTS), (0,)))

    def wait(_: int) -> float:
        return scale * min(CONVERSATION_GAP_MOST, dice.lognormvariate(*CONVERSATION_GAP))

    turns = _turns(dice, rate, CONVERSATION_TURNS, mean, wait)
    for at, session in itertools.islice(turns, calls):
        output = _quantile(CONVERSATION_OUTPUT, dice.random())
        told = made.told(session)
        if told is None:
            made.add(at, session, _tokens(dice, CONVERSATION_FIRST, CONVERSATION_MOST), output)
            continue
        prompt, answer = told
        if dice.random() < CONVERSATION_BACK:
            prompt = int(prompt * dice.random())
        grown = max(answer + 1, _tokens(dice, CONVERSATION_GROWTH, CONVERSATION_MOST))
        made.add(at, session, min(CONVERSATION_MOST, prompt + grown), output, kept=prompt)
    return made.calls


def _agent(dice: Random, calls: int, rate: float) -> list[Call]:
    sizes = [dice.randint(*AGENT_TOOLS) for _ in range(TENANTS)]
    ids = itertools.count()
    shared = {tenant: tuple(itertools.islice(ids, size // BLOCK)) for tenant, size in enumerate(sizes)}
    made = _Sessions(dice, shared, ids)
    mean = _mean(AGENT_THINK) + AGENT_TOKEN_TIME * sum(AGENT_OUTPUT) / 2

    def wait(session: int) -> float:
        told = made.told(session)
        answer = told[1] if told else sum(AGENT_OUTPUT) // 2
        return dice.lognormvariate(*AGENT_THINK) + AGENT_TOKEN_TIME * answer

    for at, session in itertools.islice(_turns(dice, rate, AGENT_TURNS, mean, wait), calls):
        tool = dice.random() < AGENT_TOOL_SHARE
        output = dice.randint(*(AGENT_TOOL_OUTPUT if tool else AGENT_OUTPUT))
        told = made.told(session)
        kept = told[0] if told and told[0] < AGENT_COMPACTS else sizes[made.tenant(session)]
        made.add(at, session, kept + dice.randint(*AGENT_GROWTH), output, kept=kept)
    return made.calls


def _code(dice: Random, calls: int, rate: float) -> list[Call]:
    ids = itertools.count()
    found = []
    for number, at in enumerate(_arrivals(dice, calls, rate, CODE_CV)):
        prompt, output = _tokens(dice, CODE_INPUT, CODE_MOST), _tokens(dice, CODE_OUTPUT, LONGEST)
        found.append(_single(number, (at, tenant_of(dice)), ids, prompt, output))
    return found


def _images(dice: Random, calls: int, rate: float) -> list[Call]:
    ids = itertools.count()
    found = []
    for number, came in enumerate(_clients(dice, calls, rate, IMAGES_CVS)):
        images = 1
        while dice.random() < IMAGES_MORE:
            images += 1
        prompt = _tokens(dice, IMAGES_TEXT, LONGEST) + _tokens(dice, IMAGES_TOKENS, LONGEST)
        output = _tokens(dice, IMAGES_OUTPUT, LONGEST)
        found.append(_single(number, came, ids, prompt, output, images=images))
    return found


def _reasoning(dice: Random, calls: int, rate: float) -> list[Call]:
    ids = itertools.count()
    found = []
    for number, came in enumerate(_clients(dice, calls, rate, REASONING_CVS)):
        prompt, output = _tokens(dice, REASONING_INPUT, LONGEST), _tokens(dice, REASONING_OUTPUT, LONGEST)
        found.append(_single(number, came, ids, prompt, output, reasoning=True))
    return found


_WORKLOADS: dict[Name, Callable[[Random, int, float], list[Call]]] = {
    "conversation": _conversation,
    "code": _code,
    "agent": _agent,
    "images": _images,
    "reasoning": _reasoning,
}


class _Sessions:
    """Calls whose prompts go on from that of the turn before."""

    def __init__(self, dice: Random, shared: dict[int, tuple[int, ...]], ids: Iterator[int] | None = None) -> None:
        self.calls: list[Call] = []
        self._dice = dice
        self._shared = shared
        self._ids = ids or itertools.count(1)
        self._last: dict[int, Call] = {}
        self._tenants: dict[int, int] = {}

    def told(self, session: int) -> tuple[int, int] | None:
        """Return the last prompt and answer of a session, in tokens; None where it begins."""
        last = self._last.get(session)
        return (last.prompt, last.output) if last else None

    def tenant(self, session: int) -> int:
        """Return whose session it is."""
        if session not in self._tenants:
            self._tenants[session] = tenant_of(self._dice)
        return self._tenants[session]

    def add(self, at: float, session: int, prompt: int, output: int, *, kept: int = BLOCK) -> None:
        """Add the next call of a session; `kept` tokens of its prompt were in the last one, or are everybody's."""
        tenant = self.tenant(session)
        last = self._last.get(session)
        known = last.blocks if last else self._shared[tenant]
        blocks = _blocks(known[: kept // BLOCK], prompt, self._ids)
        call = Call(len(self.calls), at, f"t{tenant}", f"s{session}", blocks, prompt, output)
        self._last[session] = call
        self.calls.append(call)


def _turns(
    dice: Random, rate: float, turns: float, mean_wait: float, wait: Callable[[int], float]
) -> Iterator[tuple[float, int]]:
    """Yield (at, session) for ever: sessions begin as a Poisson process, each ends with a chance of 1 in `turns`.

    Whoever was under way at 0 begins anew at its next turn: a geometric session has as many turns to come as a new one.
    """
    at = -5.0 * turns * mean_wait
    starts = 0
    due: list[tuple[float, int]] = []
    while True:
        at += dice.expovariate(rate / turns)
        while due and due[0][0] <= at:
            turn, session = heapq.heappop(due)
            if turn >= 0.0:
                yield turn, session
            if dice.random() >= 1 / turns:
                heapq.heappush(due, (turn + wait(session), session))
        heapq.heappush(due, (at, starts))
        starts += 1


def _clients(dice: Random, calls: int, rate: float, cvs: tuple[float, ...]) -> list[tuple[float, int]]:
    """Return (at, tenant) of so many calls, each tenant's own arrivals as bursty as one of `cvs`."""

    def arrivals(tenant: int) -> Iterator[tuple[float, int]]:
        mine = rate * (HEAVY_SHARE / HEAVY if tenant < HEAVY else (1 - HEAVY_SHARE) / (TENANTS - HEAVY))
        # The last tenants of a group are the bursty ones, in both groups.
        cv = cvs[tenant % len(cvs)]
        at = -dice.random() / mine
        while True:
            at += dice.gammavariate(cv**-2, cv**2 / mine)
            if at >= 0.0:
                yield at, tenant

    merged = list(itertools.islice(heapq.merge(*(arrivals(tenant) for tenant in range(TENANTS))), calls))
    kept = _to_rate([at for at, _ in merged], rate)
    return [(at, tenant) for at, (_, tenant) in zip(kept, merged, strict=True)]


def _arrivals(dice: Random, calls: int, rate: float, cv: float) -> list[float]:
    """Return so many arrivals with Gamma times between them."""
    gaps = (dice.gammavariate(cv**-2, cv**2 / rate) for _ in range(calls))
    return _to_rate(list(itertools.accumulate(gaps)), rate)


def _to_rate(at: list[float], rate: float) -> list[float]:
    stretch = len(at) / rate / at[-1]
    return [stretch * moment for moment in at]


def _single(
    number: int,
    came: tuple[float, int],
    ids: Iterator[int],
    prompt: int,
    output: int,
    *,
    images: int = 0,
    reasoning: bool = False,
) -> Call:
    """Return a call, `came` at a moment from a tenant, that shares nothing with any other."""
    at, tenant = came
    return Call(number, at, f"t{tenant}", f"s{number}", _blocks((), prompt, ids), prompt, output, images, reasoning)


def _blocks(known: tuple[int, ...], prompt: int, ids: Iterator[int]) -> tuple[int, ...]:
    return known + tuple(itertools.islice(ids, max(0, -(-prompt // BLOCK) - len(known))))


def _tokens(dice: Random, shape: tuple[float, float], most: int) -> int:
    return max(1, min(most, round(dice.lognormvariate(*shape))))


def _mean(shape: tuple[float, float]) -> float:
    mu, sigma = shape
    return math.exp(mu + sigma**2 / 2)


def _quantile(table: tuple[tuple[float, int], ...], share: float) -> int:
    """Return the value at a share of a table of quantiles, straight lines between its points."""
    for (low, least), (high, most) in itertools.pairwise(table):
        if share <= high:
            return round(least + (most - least) * (share - low) / (high - low))
    return table[-1][1]
