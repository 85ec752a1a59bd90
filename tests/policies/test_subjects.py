import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.subjects import Mapping, Subject, subject_of

MAPPING = Mapping(organization_claim=("org",), team_claim=("team",))
CLAIMS = {"sub": "ada", "org": "acme", "team": "research"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_a_subject_is_its_issuers_word_for_it():
    """The key is what its calls are charged to, so it holds the issuer's name: two issuers may both have an ada."""
    assert subject_of("corp", CLAIMS, MAPPING) == Subject(
        "acme", "research", "corp:ada", "ada", frozenset({"inference"})
    )
    assert subject_of("corp", CLAIMS, MAPPING) != subject_of("other", CLAIMS, MAPPING)


def test_what_the_operator_fixed_is_not_read_from_claims():
    """Else whoever may set a claim could leave the organization that the operator put the issuer's people in."""
    fixed = Mapping(organization="umbrella", team="all", organization_claim=("org",), team_claim=("team",))

    found = subject_of("corp", CLAIMS, fixed)

    assert (found.organization, found.team) == ("umbrella", "all")


def test_a_claim_is_found_by_its_path_and_a_dot_is_part_of_a_name():
    """Names of claims are often URLs; a path that took dots apart would find another claim."""
    claims = {"sub": "ada", "https://acme.example/org": "acme", "realm": {"groups": {"team": "research"}}}
    deep = Mapping(organization_claim=("https://acme.example/org",), team_claim=("realm", "groups", "team"))

    found = subject_of("corp", claims, deep)

    assert (found.organization, found.team) == ("acme", "research")
    assert "`realm` > `groups` > `team`" in subject_of("corp", claims | {"realm": {"groups": ["team"]}}, deep)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        7,
        True,
        [],
        ["a", "b"],
        {"acme": 1},
        "a b",
        "a/b",
        "a:b",
        "a}b",
        "a*",
        "acme\n",
        "ä",
        "a" * 65,
        [["a"]],
    ],
)
@pytest.mark.parametrize("claim", ["org", "team"])
def test_what_is_no_name_names_nobody(claim, value):
    """Names stand in the store's keys, in paths of the admin API and in metrics."""
    told = subject_of("corp", CLAIMS | {claim: value}, MAPPING)

    assert told.startswith(f"its claim `{claim}` has to name")


def test_a_list_of_one_name_is_that_name():
    """Keycloak tells a user's organization so."""
    assert subject_of("corp", CLAIMS | {"org": ["acme"]}, MAPPING).organization == "acme"


def test_an_issuer_speaks_for_the_organizations_it_was_given():
    """A customer's own provider could otherwise spend another customer's money."""
    theirs = Mapping(organization_claim=("org",), organizations=frozenset({"globex"}), team="all")

    assert "may speak for" in subject_of("corp", CLAIMS, theirs)
    assert subject_of("corp", CLAIMS | {"org": "globex"}, theirs).organization == "globex"


@pytest.mark.parametrize(
    "subject", ["Ada Lovelace", "ada/1", "auth0|507f", "a:b", "~ada", "é", "a" * 97, "{x}", "*", "李"]
)
def test_a_subject_that_is_not_plain_stands_as_its_digest(subject):
    """It could break out of a key of the store or of a table; `~` is in no plain name, so no two can meet."""
    found = subject_of("corp", CLAIMS | {"sub": subject}, MAPPING)

    assert re.fullmatch(r"corp:~[A-Za-z0-9_-]{22}", found.key)
    assert found.name == subject


@pytest.mark.parametrize("subject", ["ada", "ada@acme.example", "0f8f-11", "a+b_c.d", "a" * 96])
def test_a_plain_subject_stands_as_it_is(subject):
    """People look for it in tables and logs."""
    assert subject_of("corp", CLAIMS | {"sub": subject}, MAPPING).key == f"corp:{subject}"


@pytest.mark.parametrize("subject", [None, "", 7, ["ada"], "a\nb", "a\0", "a\u202eb", "\ud800", "a" * 256, "\u200b"])
def test_a_subject_that_is_nobody_is_refused(subject):
    """It is whom calls are charged to, and people have to be able to read it."""
    told = subject_of("corp", CLAIMS | {"sub": subject}, MAPPING)

    assert told.startswith("its claim `sub`, which says whom it is about")


def test_a_long_name_is_cut_and_its_key_is_not():
    """Two subjects of one beginning stay two."""
    one, other = (subject_of("corp", CLAIMS | {"sub": "x" * 200 + end}, MAPPING) for end in "ab")

    assert one.name == other.name == "x" * 128
    assert one.key != other.key


def test_another_claim_can_say_who_it_is():
    """Where `sub` is another for each client, operators take the one that is not."""
    mapping = Mapping(organization="acme", team="all", subject_claim=("oid",))

    assert subject_of("corp", {"sub": "x", "oid": "ada"}, mapping).key == "corp:ada"


@pytest.mark.parametrize(
    ("told", "scopes"),
    [
        ("inference admin:read", {"inference", "admin:read"}),
        (["inference", "ops"], {"inference", "admin:write"}),
        ("ops openid profile", {"admin:write"}),
        ("openid", set()),
        ("", set()),
        ([], set()),
        (None, set()),
    ],
)
def test_scopes_are_what_the_claim_says_and_nothing_where_it_says_nothing(told, scopes):
    """A token without scopes may do nothing; words that mean nothing here are for others."""
    mapping = Mapping(organization="acme", team="all", scopes_claim=("scope",), scope_values={"ops": "admin:write"})

    assert subject_of("corp", {"sub": "ada", "scope": told}, mapping).scopes == scopes


@pytest.mark.parametrize("told", [7, True, {"inference": True}, ["inference", 1], [["inference"]]])
def test_scopes_of_another_type_are_refused(told):
    """Not guessed at: an object's names could be what is denied."""
    mapping = Mapping(organization="acme", team="all", scopes_claim=("scope",))

    assert subject_of("corp", {"sub": "ada", "scope": told}, mapping).startswith("its claim `scope`")


@given(claims=st.fixed_dictionaries({"sub": JSON, "org": JSON, "team": JSON, "scope": JSON}))
def test_whatever_is_claimed_is_a_subject_or_a_clause(claims):
    """What an issuer signs is not ours to choose; what comes of it is safe in a key, and no words quote it."""
    mapping = Mapping(organization_claim=("org",), team_claim=("team",), scopes_claim=("scope",))

    found = subject_of("corp", claims, mapping)

    if isinstance(found, Subject):
        assert re.fullmatch(r"corp:[A-Za-z0-9._@+~-]+", found.key)
        assert found.name.isprintable()
    else:
        assert found in {subject_of("corp", claims_, mapping) for claims_ in REFUSED}


REFUSED = (
    {},
    {"org": "acme"},
    {"org": "acme", "team": "all"},
    {"org": "acme", "team": "all", "sub": "ada", "scope": 1},
)
