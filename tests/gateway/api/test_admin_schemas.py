import pytest

from gateway.api.admin_schemas import BodySchemas, OptionalBody, Whole
from policies.terms import RoutingWishes


@pytest.fixture(scope="module")
def paths(app):
    return app.openapi_schema.to_schema()["paths"]


def body_of(paths, method, path):
    return paths[f"/admin/v1{path}"][method]["requestBody"]


def test_a_bodys_schema_is_the_rules_that_it_is_read_by(paths):
    schema = body_of(paths, "post", "/keys")["content"]["application/json"]["schema"]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"organization", "team", "name"}
    models, none = schema["properties"]["models"]["anyOf"]
    assert none == {"type": "null"}
    assert models["minItems"] == 1
    assert models["items"]["pattern"].startswith("^[A-Za-z0-9._:/-]")
    assert schema["properties"]["metadata"]["propertyNames"] == {"minLength": 1, "maxLength": 64}


@pytest.mark.parametrize(("method", "path"), [("post", "/keys"), ("patch", "/keys/{key_id}")])
def test_a_keys_wishes_are_told_one_by_one(paths, method, path):
    schema = body_of(paths, method, path)["content"]["application/json"]["schema"]
    wishes, none = schema["properties"]["routing"]["anyOf"]
    assert none == {"type": "null"}
    assert (wishes["type"], wishes["additionalProperties"], wishes["minProperties"]) == ("object", False, 1)
    assert tuple(wishes["properties"]) == RoutingWishes.__struct_fields__


def test_a_body_that_may_be_left_out_is_told_as_such(paths):
    assert body_of(paths, "post", "/keys/{key_id}/rotate")["required"] is False
    assert body_of(paths, "post", "/backends/{backend}/drain")["required"] is False
    assert body_of(paths, "post", "/keys")["required"] is True
    OptionalBody(responses={})


def test_every_route_that_takes_a_body_tells_how_large_it_may_be(paths):
    """And no other: nothing reads theirs."""
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert ("requestBody" in operation) == ("413" in operation["responses"]), (method, path)
            if "requestBody" in operation:
                most = "1024 KiB" if path.endswith("/explain") else "64 KiB"
                assert most in operation["responses"]["413"]["description"]


def test_what_is_told_whole_is_told_as_it_is():
    assert Whole(told={"anyOf": []}).to_schema() == {"anyOf": []}


def test_only_what_is_read_strictly_is_described_so():
    from litestar.typing import FieldDefinition

    from gateway.api.admin_organizations import OrganizationAnswer, OrganizationBody

    described = BodySchemas().is_plugin_supported_field
    assert described(FieldDefinition.from_annotation(OrganizationBody))
    for other in (OrganizationAnswer, OrganizationBody | None, int, dict[str, int]):
        assert not described(FieldDefinition.from_annotation(other))
