import pytest

from gateway.config.settings import ALGORITHMS
from policies.subjects import Mapping
from tests.parts.transports import certified

BACKEND = "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
WHO = {"issuer": "https://sso.example", "audience": "sluiceway", "organization": "acme", "team": "all"}


def issuers(**changes):
    """Write one issuer, each of its keys on a line of its own from line 4 on; None leaves a key out."""
    keys = {key: value for key, value in (WHO | changes).items() if value is not None}
    return f"{BACKEND}issuers:\n  sso:\n" + "".join(f"    {key}: {value}\n" for key, value in keys.items())


@pytest.fixture
def issuer_of(settings_of):
    """Load a file with one issuer, with these changes."""

    def load(**changes):
        (issuer,) = settings_of(issuers(**changes)).issuers
        return issuer

    return load


def test_an_issuer_of_few_words_has_every_default(issuer_of):
    issuer = issuer_of()
    assert (issuer.name, issuer.issuer, issuer.audience) == ("sso", "https://sso.example", ("sluiceway",))
    assert (issuer.algorithms, issuer.leeway, issuer.on_expiry) == (("RS256",), 30, "finish")
    assert (issuer.jwks_url, issuer.ca, issuer.plan) == (None, None, None)
    assert issuer.mapping == Mapping(organization="acme", team="all")


def test_an_issuer_may_say_everything(issuer_of, tmp_path):
    """A claim is a name at the top, or a path."""
    ca = certified(tmp_path).ca
    issuer = issuer_of(
        audience="[one, two]",
        algorithms=f"[{', '.join(ALGORITHMS)}]",
        jwks_url="https://sso.example/keys?app=1",
        ca="ca.pem",
        leeway="0",
        plan="standard",
        on_expiry="cut",
        organization=None,
        organization_claim="https://acme.example/org",
        organizations="[acme, labs]",
        team=None,
        team_claim="[groups, 'main team']",
        subject_claim="email",
        scopes_claim="[realm_access, roles]",
        scope_values="{llm-user: inference, llm-admin: 'admin:write'}",
    )
    assert issuer.audience == ("one", "two")
    assert issuer.algorithms == ALGORITHMS
    assert issuer.jwks_url == "https://sso.example/keys?app=1"
    assert (issuer.ca, issuer.leeway, issuer.plan, issuer.on_expiry) == (ca, 0, "standard", "cut")
    assert issuer.mapping == Mapping(
        organization_claim=("https://acme.example/org",),
        organizations=frozenset({"acme", "labs"}),
        team_claim=("groups", "main team"),
        subject_claim=("email",),
        scopes_claim=("realm_access", "roles"),
        scope_values={"llm-user": "inference", "llm-admin": "admin:write"},
    )


def test_every_token_of_an_issuer_may_have_the_same_scopes(issuer_of):
    assert issuer_of(scopes="['admin:read', inference]").mapping.scopes == {"admin:read", "inference"}


@pytest.mark.parametrize("url", ["https://h/", "http://127.0.0.1:8080/realms/a", "http://[::1]:80", "http://localhost"])
def test_an_issuers_name_is_kept_to_the_last_slash(issuer_of, url):
    """`iss` is compared exactly."""
    assert issuer_of(issuer=f"'{url}'").issuer == url


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"issuer": None}, "issuer", "is missing; add the `iss` of its tokens, exactly"),
        (
            {"issuer": "http://sso.example"},
            "issuer",
            "has no TLS, so whoever is on the way could sign tokens; write htt",
        ),
        ({"issuer": "http://127.0.0.1.example"}, "issuer", "has no TLS"),
        ({"issuer": "http://10.0.0.1"}, "issuer", "or an address of this machine"),
        ({"issuer": "sso.example"}, "issuer", "does not begin with http:// or https://"),
        ({"issuer": "https://me:hunter2@sso.example"}, "issuer", "holds credentials; take them out of the URL"),
        (
            {"issuer": "https://sso.example?a=hunter2"},
            "issuer",
            "has a query or a fragment; end the URL before ? and #",
        ),
        ({"jwks_url": "http://sso.example/keys"}, "jwks_url", "has no TLS"),
        ({"jwks_url": "'https://sso.example/keys#a'"}, "jwks_url", "has a query or a fragment; end the URL before #"),
        ({"jwks_url": "'https://'"}, "jwks_url", "names no valid host"),
        ({"audience": None}, "audience", "is missing; name what its tokens are for: their `aud`"),
        ({"audience": "[]"}, "audience", "is empty; name what its tokens are for"),
        ({"audience": "''"}, "audience", "is empty"),
        ({"audience": "[a, '']"}, "audience[1]", "is empty"),
        ({"algorithms": "[]"}, "algorithms", "is empty; name some of RS256, RS384"),
        ({"algorithms": "RS256"}, "algorithms", "must be a list"),
        (
            {"algorithms": "[RS256, HS256]"},
            "algorithms[1]",
            "its key is a shared secret, so whoever checks tokens could",
        ),
        ({"algorithms": "[HS256]"}, "algorithms[0]", "could make them; write one of RS256, RS384, RS512, PS256"),
        ({"algorithms": "[none]"}, "algorithms[0]", "'none' is not known here; write one of RS256"),
        ({"algorithms": "[rs256]"}, "algorithms[0]", "'rs256' is not known here"),
        ({"ca": "gone.pem"}, "ca", "cannot be read: No such file"),
        ({"leeway": "301"}, "leeway", "is out of range; write seconds from 0 to 300"),
        ({"on_expiry": "stop"}, "on_expiry", "write one of finish, cut"),
        ({"organization": "a/b"}, "organization", "is no valid name; use 1 to 64 letters"),
        ({"team": "''"}, "team", "is empty"),
        ({"subject_claim": "[]"}, "subject_claim", "is empty; write the claim's name, or its path as [OUTER, INNER]"),
        ({"subject_claim": "[a, [b]]"}, "subject_claim[1]", "must be a single value"),
        ({"scopes": "[]"}, "scopes", "is empty; add inference, or remove the line"),
        ({"scopes": "[admin]"}, "scopes[0]", "write one of inference, admin:read, admin:write"),
        ({"scopes_claim": "scope", "scope_values": "{}"}, "scope_values", "is empty; add `VALUE: SCOPE`"),
        ({"scopes_claim": "scope", "scope_values": "{a: b}"}, "scope_values.a", "'b' is not known here"),
        ({"audiences": "a"}, "audiences", "is not a setting of an issuer; did you mean `audience`?"),
    ],
)
def test_what_an_issuer_cannot_be_is_told_with_what_would_be_right(mistakes_of, changes, key, words):
    (mistake,) = mistakes_of(issuers(**changes))
    assert mistake.where == f"issuers.sso.{key}"
    assert words in f"{mistake.message}; {mistake.remedy}"
    assert "hunter2" not in str(mistake)


def test_an_issuers_name_is_part_of_its_subjects(mistakes_of):
    """So it holds no mark that parts them."""
    (mistake,) = mistakes_of(issuers().replace("  sso:", "  s:so:"))
    assert "use 1 to 128 letters, digits and . _ -" in mistake.remedy
