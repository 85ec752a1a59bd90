import pytest

from tests.gateway.config.test_issuers import WHO, issuers
from tests.parts.transports import certified

FIRST = 4


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        (
            {"organization": None},
            "organization",
            "nobody knows the organization of its tokens; add `organization: NAME`, ",
        ),
        ({"team": None}, "team", "is missing: nobody knows the team of its tokens"),
        ({"team": None}, "team", "or `team_claim: CLAIM` where its tokens tell"),
        (
            {"organization_claim": "org"},
            "organization_claim",
            "contradicts `organization`, which is the same for every",
        ),
        ({"team_claim": "team"}, "team_claim", "contradicts `team`"),
        (
            {"organizations": "[acme]"},
            "organizations",
            "no claim names an organization; add `organization_claim: CLAIM`",
        ),
        (
            {"scopes": "[inference]", "scopes_claim": "scope"},
            "scopes",
            "contradicts `scopes_claim`, by which each token",
        ),
        ({"scope_values": "{a: inference}"}, "scope_values", "no claim tells scopes; add `scopes_claim: CLAIM`"),
        (
            {"scopes_claim": "scope", "scope_values": "{inference: 'admin:write'}"},
            "scope_values.inference",
            "is a scope of ours, which is taken as it is; remove the line",
        ),
        ({"audience": "[a, b, a]"}, "audience[2]", "'a' is given twice"),
        ({"algorithms": "[ES256, ES256]"}, "algorithms[1]", "'ES256' is given twice; keep one of them"),
        ({"scopes": "[inference, inference]"}, "scopes[1]", "is given twice"),
        ({"plan": "standart"}, "plan", "'standart' is not a plan; did you mean `standard`?"),
        ({"issuer": "http://localhost", "ca": "ca.pem"}, "ca", "does nothing: issuer has no TLS; write https:// there"),
        ({"jwks_url": "http://localhost/keys", "ca": "ca.pem"}, "ca", "does nothing: jwks_url has no TLS"),
    ],
)
def test_what_does_not_fit_together_is_told(mistakes_of, tmp_path, changes, key, words):
    """With the line that would have to change, and how."""
    certified(tmp_path)
    (mistake,) = mistakes_of(issuers(**changes))
    lines = [name for name, value in (WHO | changes).items() if value is not None]
    name = key.split(".")[0].split("[")[0]
    assert mistake.where == f"issuers.sso.{key}"
    assert mistake.line == (FIRST + lines.index(name) if name in lines else FIRST - 1)
    assert words in f"{mistake.message}; {mistake.remedy}"


def test_one_issuer_stands_in_the_file_once(mistakes_of):
    """Else nobody knew which row a token is judged by."""
    again = "".join(f"    {key}: {value}\n" for key, value in WHO.items())
    (mistake,) = mistakes_of(f"{issuers()}  other:\n{again}")
    assert (mistake.line, mistake.where) == (9, "issuers.other.issuer")
    assert f"is the issuer of line {FIRST} again; keep one" in f"{mistake.message}; {mistake.remedy}"


@pytest.mark.parametrize(
    "changes",
    [
        {"organization": "a/b"},
        {"organization": None, "organization_claim": "''", "organizations": "[acme]"},
        {"team": "[a]"},
        {"scopes_claim": "''", "scope_values": "{a: inference}"},
        {"issuer": "http://far.example", "ca": None},
    ],
)
def test_what_could_not_be_read_is_not_judged_again(mistakes_of, changes):
    assert len(mistakes_of(issuers(**changes))) == 1


def test_a_row_that_is_none_is_told_once(mistakes_of):
    (mistake,) = mistakes_of("backends: {gpu: {kind: vllm, base_url: http://h/v1}}\nissuers: {sso: 5}\n")
    assert mistake.where == "issuers.sso"
