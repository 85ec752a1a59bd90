import pytest

from tests.gateway.api.support import error

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
async def test_every_change_is_told_once_the_newest_first(admin, limit):
    for number in range(7):
        await admin.put(f"/organizations/o{number}", json={})
    told, params = [], {"limit": limit}
    while True:
        page = (await admin.get("/audit", params=params)).json()
        assert len(page["lines"]) <= limit
        told += page["lines"]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert [line["name"] for line in told] == [f"o{number}" for number in reversed(range(7))]
    assert [line["version"] for line in told] == list(range(7, 0, -1))
    assert set(told[0]) == {
        "version",
        "at",
        "kind",
        "name",
        "action",
        "who",
        "address",
        "request_id",
        "before",
        "after",
    }


@pytest.mark.parametrize("cursor", ["", "0", "-1", "x", "1.5", "01", "9" * 20, "1%0a"])
async def test_a_wrong_cursor_is_refused(admin, cursor):
    assert error(await admin.get(f"/audit?cursor={cursor}"), 400)["param"] == "cursor"


async def test_what_is_before_the_first_change_is_nothing(admin):
    await admin.put("/organizations/acme", json={})
    assert (await admin.get("/audit?cursor=1")).json() == {"lines": [], "next": None}
