import random
from collections import Counter

from policies.shortlist import ALL, CHANCE, OWN, Shortlist
from tests.policies.builders import deployment

MANY = tuple(deployment(f"gpu-{number}") for number in range(500))


def test_of_few_every_one_is_looked_at():
    """In the file's order."""
    few = MANY[:ALL]
    assert Shortlist(few).of(7, random.Random(1)) == few


def test_of_many_a_bounded_number_is_looked_at_each_once():
    """Those that the call's mark draws are always among them."""
    shortlist, dice = Shortlist(MANY), random.Random(1)
    looks = [shortlist.of(12345, dice) for _ in range(20)]

    assert all(OWN <= len(look) <= OWN + CHANCE for look in looks)
    assert all(len({one.id for one in look}) == len(look) for look in looks)
    always = set.intersection(*({one.id for one in look} for look in looks))
    assert len(always) >= OWN
    assert len(shortlist.of(None, dice)) > CHANCE


def test_whoever_goes_moves_only_the_calls_that_were_drawn_to_it():
    """So that most caches stay found when replicas come and go."""
    before, after = Shortlist(MANY), Shortlist(MANY[1:])
    same = 0
    for mark in range(0, 2**32, 2**32 // 200):
        old = before.of(mark, random.Random(1))[:]
        drawn = {one.id for one in old} & {one.id for one in after.of(mark, random.Random(2))}
        same += len(drawn) >= OWN - 1
    assert same >= 200


def test_all_are_looked_at_about_as_often():
    """By marks and by dice."""
    shortlist, dice = Shortlist(MANY), random.Random(1)
    seen = Counter(one.id for _ in range(4000) for one in shortlist.of(dice.getrandbits(32), dice))

    assert len(seen) == len(MANY)
    assert max(seen.values()) < 4 * min(seen.values())
