from policies.domain import Price, Usage
from policies.parts import Part, shares

CHEAP, DEAR = Price(1_000, 2_000), Price(10_000, 20_000)


def test_the_tenant_pays_the_prompt_once_and_every_output_at_its_own_price():
    """The second prompt was ours to pay; it tells how long the first one was."""
    cut, rest = Usage(12, 40, estimated=True), Usage(50, 20, estimated=False)
    got = shares([Part(CHEAP, cut), Part(DEAR, rest)])
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.estimated) == (10, 60, True)
    assert got.money == (10 + 2 * 40) + 20 * 20
    assert got.wasted.total == 50
    assert got.wasted_money == 50 * 10


def test_what_both_pay_is_what_the_upstreams_did():
    parts = [
        Part(None, Usage(9, 5, estimated=True)),
        Part(CHEAP, Usage(14, 5, estimated=True)),
        Part(DEAR, Usage(19, 7, estimated=False)),
    ]
    got = shares(parts)
    assert got.usage.completion_tokens == 17
    assert got.usage.prompt_tokens == 19 - (5 + 5)
    assert got.wasted.total == 14 + 19


def test_one_part_alone_is_paid_as_it_is():
    """The answer broke off, and nobody went on."""
    cut = Usage(12, 40, estimated=True, cached_tokens=4, reasoning_tokens=3)
    got = shares([Part(CHEAP, cut)])
    assert (got.usage, got.money) == (cut, 92)
    assert (got.wasted.total, got.wasted_money) == (0, 0)
