from hypothesis import given
from hypothesis import strategies as st

from policies.domain import Price, Usage
from policies.pricing import free, money


def used(prompt, completion, cached=0, reasoning=0):
    return Usage(prompt, completion, estimated=False, cached_tokens=cached, reasoning_tokens=reasoning)


def test_a_million_tokens_cost_their_listed_price():
    """1.5 USD in and 7.5 USD out a million tokens, in nano-dollars."""
    price = Price(input=1_500_000, output=7_500_000)

    assert money(price, used(1_000_000, 0)) == 1_500_000_000
    assert money(price, used(0, 1_000_000)) == 7_500_000_000


def test_a_call_is_rounded_up_once():
    """Not once a side."""
    assert money(Price(1, 1), used(1, 1)) == 1
    assert money(Price(1, 1), used(500, 501)) == 2
    assert money(Price(1, 1, 1, 1), used(500, 501, 250, 250)) == 2
    assert money(Price(0, 0), used(10**9, 10**9)) == 0


def test_cached_input_and_reasoning_have_their_own_price_where_one_is_told():
    """Else that of the rest; a price of 0 is a price."""
    usage = used(1_000_000, 1_000_000, cached=400_000, reasoning=600_000)
    plain = Price(input=1_000_000, output=2_000_000)

    assert money(plain, usage) == 3_000_000_000
    assert money(Price(1_000_000, 2_000_000, cached_input=100_000), usage) == 3_000_000_000 - 400_000 * 900
    assert money(Price(1_000_000, 2_000_000, cached_input=0), usage) == 3_000_000_000 - 400_000 * 1000
    assert money(Price(1_000_000, 2_000_000, reasoning=3_000_000), usage) == 3_000_000_000 + 600_000 * 1000


def test_an_unknown_price_costs_nothing_and_is_not_free():
    """It cannot be booked, and must not serve whoever has no money left."""
    assert money(None, used(10**6, 10**6)) == 0
    assert not free(None)


def test_free_is_what_costs_nothing_whatever_is_used():
    """Also of cached input and reasoning."""
    assert free(Price(0, 0))
    assert free(Price(0, 0, 0, 0))
    assert not free(Price(0, 1))
    assert not free(Price(0, 0, reasoning=1))


@given(st.builds(Price, *[st.integers(0, 10**9)] * 4), st.integers(0, 10**6), st.integers(0, 10**6), st.data())
def test_each_token_has_exactly_one_price(price, prompt, completion, data):
    """And the sum is rounded up to the next nano-dollar."""
    cached, reasoning = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, completion))
    pico = (prompt - cached) * price.input + cached * price.cached_input
    pico += (completion - reasoning) * price.output + reasoning * price.reasoning

    nano = money(price, used(prompt, completion, cached, reasoning))

    assert 0 <= nano * 1000 - pico < 1000
