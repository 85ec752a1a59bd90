"""What a real OTLP receiver gets of a call that failed over between real engines."""

from tests.e2e.conftest import over
from tests.parts.otlp import OtlpReceiver

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_span_tree_of_a_call_that_failed_over(start, replicas, store):
    """One server span under the caller's, a client span for each attempt under it."""
    with OtlpReceiver() as receiver:
        traced = {"telemetry": {"otlp_endpoint": receiver.endpoint, "sample": 1.0}}
        site = await start(over(replicas) | traced | store)
        client = await site.client()
        for replica in replicas[:2]:
            replica.kill()
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "secret words"}], "max_tokens": 5}
        answers = [
            await client.chat.completions.create(**asked, extra_headers={"traceparent": CALLER}) for _ in range(8)
        ]
        assert await site.process.terminate() == 0
        trees = receiver.tree()

    assert len(trees) == len(answers)
    assert {tree.span.name for tree in trees} == {"POST /v1/chat/completions"}
    assert {tree.span.parent_id for tree in trees} == {"b7ad6b7169203331"}
    assert {child.span.name for tree in trees for child in tree.children} == {"chat tiny"}
    assert max(len(tree.children) for tree in trees) >= 2
    for tree in trees:
        outcomes = [child.span.attributes["sluiceway.outcome"] for child in tree.children]
        assert outcomes[-1] == "ok"
        assert set(outcomes[:-1]) <= {"connect", "reset", "truncated"}
        assert tree.span.attributes["gen_ai.usage.output_tokens"] == 5
        assert tree.span.attributes["sluiceway.attempts"] == len(tree.children)
    assert "secret words" not in str([span.attributes for span in receiver.spans])
