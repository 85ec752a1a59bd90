from policies.domain import Price
from policies.pricing import money


def test_a_million_tokens_cost_their_listed_price():
    """1.5 USD in and 7.5 USD out a million tokens, in nano-dollars."""
    price = Price(input=1_500_000, output=7_500_000)

    assert money(price, 1_000_000, 0) == 1_500_000_000
    assert money(price, 0, 1_000_000) == 7_500_000_000


def test_a_call_is_rounded_up_once():
    """Not once a side."""
    assert money(Price(1, 1), 1, 1) == 1
    assert money(Price(1, 1), 500, 501) == 2
    assert money(Price(0, 0), 10**9, 10**9) == 0
