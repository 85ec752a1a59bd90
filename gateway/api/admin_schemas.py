"""What the OpenAPI page says of bodies.

Law: the page tells the very rules that bodies are read by. Litestar's own schemas of Structs leave out what stands
inside unions and lists, and that unknown fields are refused; msgspec's, which reads them, do not.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar._openapi.schema_generation import SchemaCreator
from litestar.openapi.spec import Components, Operation, RequestBody, Schema, SecurityScheme
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition
from msgspec import Struct

CREDENTIAL = "credential"
CREDENTIALS = Components(
    security_schemes={
        CREDENTIAL: SecurityScheme(
            type="http", scheme="bearer", description="The admin key, or an API key or a token with an admin scope."
        )
    }
)
"""For the page of every app that serves the admin API."""


@dataclass
class Whole(Schema):
    """A schema that is told as it is."""

    told: dict[str, Any] = field(default_factory=dict)

    def to_schema(self) -> dict[str, Any]:
        """Return it."""
        return self.told


class BodySchemas(OpenAPISchemaPlugin):
    """Describes the Structs that take no unknown fields, which are those that bodies are read as."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        """Say whether a type is such a Struct."""
        sort = field_definition.annotation
        return isinstance(sort, type) and issubclass(sort, Struct) and sort.__struct_config__.forbid_unknown_fields

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: SchemaCreator) -> Schema:  # noqa: ARG002 - the base class's
        """Return the schema of such a Struct, which holds no other Struct."""
        sort = field_definition.annotation
        return Whole(told=msgspec.json.schema(sort)["$defs"][sort.__name__])


@dataclass
class OptionalBody(Operation):
    """A route whose body may be left out."""

    def __post_init__(self) -> None:
        """Say so."""
        if isinstance(self.request_body, RequestBody):
            self.request_body.required = False
