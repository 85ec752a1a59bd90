"""How the admin API reads bodies.

Law: a body is JSON of exactly the types that the route tells, or a 400 that names the field: nothing is coerced, since
a word that is taken for null would open what it meant to close. No member stands in it twice: readers differ in which
one counts.
"""

import json
import re
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import ClientException, ValidationException

MAX_BODY = 64 * 1024
"""Bytes of a request's body; a plan with hundreds of models' meters is 30 KB."""

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.([A-Za-z_]+)")
"""Where msgspec says at its messages' end which field is at fault."""


class JSONRequest(Request[Any, Any, State]):
    """A request whose body is read strictly, as the type that its handler names."""

    async def json(self) -> Any:  # noqa: ANN401 - the type is the base class's
        """Return the decoded body."""
        field = self.route_handler.parsed_data_field
        try:
            body = await self.body()
            read = msgspec.json.decode(body, type=Any if field is None else field.annotation)
            # Numbers are left as text: they are read, and a long one is nothing to convert a second time.
            json.loads(body, object_pairs_hook=_demand_once, parse_int=str, parse_float=str)
        except msgspec.ValidationError as error:
            found = _PLACE.search(str(error))
            fault = {"key": found[1] if found else "data", "message": str(error)}
            raise ValidationException("The body is not as this route takes it.", extra=[fault]) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ClientException(f"The body is not JSON: {error}.") from error
        except RecursionError as error:
            raise ClientException("The body is nested too deeply.") from error
        return read


def _demand_once(members: list[tuple[str, Any]]) -> None:
    """Raise ClientException where an object has two members of one name."""
    seen = set()
    for name, _ in members:
        if name in seen:
            raise ClientException(f"The body has the member {name[:64]!r} twice in one object. Give it once.")
        seen.add(name)
