from hypothesis import given
from hypothesis import strategies as st

from policies.terms import (
    DEFAULT,
    LEAST_VALUE,
    MOST_VALUE,
    NO_WISHES,
    OF_MODEL,
    Origin,
    RoutingTerms,
    RoutingWishes,
    Voice,
    attributed,
    heard,
    joined,
    narrower,
)

POLICIES = st.sampled_from(["balanced", "cheapest", "fastest", "pinned", "weighted"])
PRIORITIES = st.sampled_from(["high", "normal", "low"])
SECONDS = st.floats(0.001, 86_400)
MONEY = st.integers(0, 10**13)
WISHES = st.builds(
    RoutingWishes,
    *(st.none() | one for one in (SECONDS, MONEY, SECONDS, MONEY, POLICIES, PRIORITIES)),
)
TERMS = st.builds(
    RoutingTerms,
    ttft_target=st.none() | SECONDS,
    value_of_time=MONEY,
    tpot_target=st.none() | SECONDS,
    max_price=st.none() | MONEY,
    policy=POLICIES,
    priority=PRIORITIES,
)

LEVELS = (Origin("organization", "o"), Origin("team", "t"), Origin("key", "k"), Origin("key"))
VOICES = st.tuples(*(st.builds(Voice, st.just(level), WISHES) for level in LEVELS))
TOLD = st.frozensets(st.sampled_from(RoutingTerms.__struct_fields__))


def origins(terms, *wishes, told=frozenset()):
    """Say who each term is of: the model's and the default's, and of one level a wish, the widest first."""
    _, found = attributed(terms, told, [Voice(level, one) for level, one in zip(LEVELS, wishes, strict=False)])
    return found


def test_who_wishes_nothing_is_routed_as_the_model_says():
    """Most callers: the very same terms, without a copy a call."""
    terms, wide = RoutingTerms(ttft_target=2.0), RoutingWishes(policy="fastest")

    assert joined(terms, NO_WISHES) is terms
    assert narrower(wide, NO_WISHES) is wide


def test_the_narrowest_that_says_something_is_heard():
    """What it leaves open is as the wider one has it."""
    wide = RoutingWishes(ttft_target=2.0, value_of_time=5, priority="low")

    found = narrower(wide, RoutingWishes(value_of_time=7, policy="pinned"))

    assert found == RoutingWishes(ttft_target=2.0, value_of_time=7, policy="pinned", priority="low")
    assert joined(RoutingTerms(max_attempts=1, max_wait=0.0, tpot_target=0.1), found) == RoutingTerms(
        ttft_target=2.0,
        value_of_time=7,
        max_attempts=1,
        tpot_target=0.1,
        policy="pinned",
        max_wait=0.0,
        priority="low",
    )


def test_the_least_of_all_prices_counts():
    """A key cannot wish away what its organization does not want to pay."""
    prices = [(None, None, None), (5, None, 5), (None, 5, 5), (5, 7, 5), (7, 5, 5), (0, 5, 0)]
    for wide, narrow, least in prices:
        narrow_wishes = RoutingWishes(max_price=narrow)
        assert narrower(RoutingWishes(max_price=wide), narrow_wishes).max_price == least
        assert joined(RoutingTerms(max_price=wide), narrow_wishes).max_price == least


def test_a_value_of_time_takes_the_place_of_a_wider_policy_that_has_its_own():
    """It would be without effect, though it is narrower."""
    wishes = RoutingWishes(value_of_time=7)

    assert joined(RoutingTerms(policy="cheapest"), wishes).worth == 7
    assert narrower(RoutingWishes(policy="fastest"), wishes).policy == "balanced"
    assert narrower(RoutingWishes(policy="weighted"), wishes).policy == "weighted"
    assert narrower(wishes, RoutingWishes(policy="cheapest")).policy == "cheapest"


def test_policies_are_values_of_time():
    """Next to nothing, as it is, and all there is."""
    worth = {policy: RoutingTerms(policy=policy, value_of_time=7).worth for policy in ("cheapest", "fastest")}

    assert worth == {"cheapest": LEAST_VALUE, "fastest": MOST_VALUE}
    assert [RoutingTerms(policy=one, value_of_time=7).worth for one in ("balanced", "pinned", "weighted")] == [7, 7, 7]


@given(TERMS, WISHES, WISHES)
def test_wishes_that_are_joined_once_are_what_they_are_one_after_the_other(terms, wide, narrow):
    """So that a principal may hold them joined."""
    assert joined(terms, narrower(wide, narrow)) == joined(joined(terms, wide), narrow)


@given(WISHES, WISHES, WISHES)
def test_it_does_not_matter_where_levels_are_joined_first(organization, team, key):
    """Three levels and a key's own."""
    left = narrower(narrower(organization, team), key)

    assert left == narrower(organization, narrower(team, key))
    assert narrower(left, left) == left


@given(TERMS, WISHES)
def test_no_wish_makes_a_call_dearer_than_its_model_lets_it_be(terms, wishes):
    """The most that a call may cost only ever falls."""
    found = joined(terms, wishes)

    assert terms.max_price is None or found.max_price <= terms.max_price
    assert (found.max_attempts, found.max_wait) == (terms.max_attempts, terms.max_wait)


def test_each_term_is_whoevers_was_heard():
    """What the file does not say of the model is the default, though it may say the same."""
    found = origins(
        RoutingTerms(ttft_target=2.0, policy="pinned"),
        RoutingWishes(priority="low", tpot_target=0.1),
        RoutingWishes(tpot_target=0.1),
        told={"ttft_target", "policy"},
    )

    assert found == {
        "ttft_target": OF_MODEL,
        "policy": OF_MODEL,
        "priority": LEVELS[0],
        "tpot_target": LEVELS[1],
        **dict.fromkeys(("value_of_time", "max_attempts", "max_price", "max_wait"), DEFAULT),
    }


def test_the_most_that_a_call_may_cost_is_whoevers_is_the_least():
    """A key that wishes more than its organization lets it is not who decided; nor one that only agrees."""
    low, high = RoutingWishes(max_price=5), RoutingWishes(max_price=7)

    assert origins(RoutingTerms(), low, high)["max_price"] == LEVELS[0]
    assert origins(RoutingTerms(), high, low)["max_price"] == LEVELS[1]
    assert origins(RoutingTerms(), low, low)["max_price"] == LEVELS[0]
    assert origins(RoutingTerms(max_price=4), low, told={"max_price"})["max_price"] == OF_MODEL


def test_a_value_of_time_is_whoevers_the_policy_is_that_sets_it():
    """And a policy that gave way to a narrower value of time is whoever's that is."""
    worth, cheap = RoutingWishes(value_of_time=7), RoutingWishes(policy="cheapest")
    gone, kept = origins(RoutingTerms(), cheap, worth), origins(RoutingTerms(), worth, cheap)

    assert (gone["policy"], gone["value_of_time"]) == (LEVELS[1], LEVELS[1])
    assert (kept["policy"], kept["value_of_time"]) == (LEVELS[1], LEVELS[1])
    assert origins(RoutingTerms(), worth)["policy"] == DEFAULT


@given(TERMS, TOLD, VOICES)
def test_what_is_attributed_is_what_is_joined(terms, told, voices):
    """The terms that are told with their origins are those that calls are routed by, and each is its origin's."""
    found, whose = attributed(terms, told, voices)

    assert found == joined(terms, heard(voices))
    said = {voice.origin: voice.wishes for voice in voices}
    own = found.policy in {"cheapest", "fastest"}
    for name, origin in whose.items():
        if name == "value_of_time" and own:
            assert origin == whose["policy"]
        elif origin in {DEFAULT, OF_MODEL}:
            assert getattr(found, name) == getattr(terms, name)
            assert (origin == OF_MODEL) == (name in told)
        elif getattr(said[origin], name) is not None:
            assert getattr(found, name) == getattr(said[origin], name)
        else:
            assert (name, found.policy) == ("policy", "balanced")
            assert said[origin].value_of_time is not None
