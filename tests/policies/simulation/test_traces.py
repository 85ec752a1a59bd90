from random import Random

import pytest

from policies.simulation.traces import TraceError, trace

MOONCAKE = [
    '{"timestamp": 3000, "input_length": 1200, "output_length": 50, "hash_ids": [0, 1, 2]}\n',
    '{"timestamp": 3000, "input_length": 600, "output_length": 10, "hash_ids": [0, 3]}\n',
    '{"timestamp": 6000, "input_length": 1700, "output_length": 20, "hash_ids": [0, 1, 4, 5]}\r\n',
    "\n",
    '{"timestamp": 9000, "input_length": 2000, "output_length": 20, "hash_ids": [0, 1, 4, 6]}\n',
]
AZURE = [
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n",
    "2023-11-16 18:17:03.9799600,4808,10\r\n",
    "2023-11-16 18:17:04.0319600,3180,8\r\n",
    "2023-11-16 18:18:03.9799600,110,27\r\n",
]


def test_mooncakes_lines_are_read_as_they_are():
    """Tokens and blocks are the trace's own, so that its hits are those that were published."""
    calls = trace(MOONCAKE, Random(1))
    assert [call.number for call in calls] == [0, 1, 2, 3]
    assert sorted((call.prompt, call.output, call.blocks) for call in calls) == [
        (600, 10, (0, 3)),
        (1200, 50, (0, 1, 2)),
        (1700, 20, (0, 1, 4, 5)),
        (2000, 20, (0, 1, 4, 6)),
    ]


def test_mooncakes_sessions_are_found_by_what_they_share():
    """The first block is everybody's; whoever shares more goes on from the other, and has its tenant."""
    calls = {call.prompt: call for call in trace(MOONCAKE, Random(1))}
    assert calls[1200].session == calls[1700].session == calls[2000].session
    assert calls[1200].tenant == calls[1700].tenant
    assert calls[600].session != calls[1200].session


def test_calls_of_one_tick_are_spread_over_it():
    """Mooncake counts in ticks of 3 s: replayed as they stand, ten calls would come at once and then none."""
    calls = trace(MOONCAKE, Random(1))
    assert 0.0 < calls[0].at < calls[1].at < 3.0
    assert [call.at for call in calls[2:]] == [3.0, 6.0]
    last = trace([*MOONCAKE[:3], MOONCAKE[2]], Random(1))
    assert 3.0 < last[2].at < last[3].at < 6.0


def test_time_is_compressed():
    """Load is raised by replaying faster: each moment at twice the speed is half as late."""
    usual, fast = trace(MOONCAKE, Random(1)), trace(MOONCAKE, Random(1), speed=2.0)
    assert [call.at for call in fast] == pytest.approx([call.at / 2 for call in usual])


def test_azures_lines_share_nothing():
    """Azure tells lengths alone: a block that two prompts shared would be made up."""
    calls = trace(AZURE, Random(1))
    assert [call.at for call in calls] == pytest.approx([0.0, 0.052, 60.0], abs=1e-4)
    assert [(call.prompt, call.output, len(call.blocks)) for call in calls] == [
        (4808, 10, 10),
        (3180, 8, 7),
        (110, 27, 1),
    ]
    blocks = [block for call in calls for block in call.blocks]
    assert len(set(blocks)) == len(blocks)
    assert len({call.session for call in calls}) == 3


def test_lines_out_of_order_are_put_in_order():
    """Whoever plays a trace goes through it once."""
    calls = trace([AZURE[0], AZURE[3], AZURE[1]], Random(1))
    assert [call.prompt for call in calls] == [4808, 110]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no call"),
        ([AZURE[0]], "no call"),
        (["when,what\n"], "line 1 is neither"),
        ([AZURE[0], "2023-11-16 18:17:03,many,10\n"], "line 2"),
        ([AZURE[0], AZURE[1], "\n", "2023-11-16 18:17:03,10\n"], "line 4"),
        ([*AZURE, "2023-11-16 18:17:03,0,10\n"], "line 5: a prompt of 0 tokens"),
        ([*AZURE, "2023-11-16 18:17:03,10,-1\n"], "line 5: .* an answer of -1"),
        ([MOONCAKE[0], MOONCAKE[1].replace("600", "0").replace("[0, 3]", "[]")], "line 2: a prompt of 0 tokens"),
        (['{"timestamp": 1}\n'], "line 1"),
        ([MOONCAKE[0], '{"timestamp": 3000, "input'], "line 2"),
        (['{"timestamp": 3000, "input_length": 1200, "output_length": 50, "hash_ids": [0]}'], "not one for each 512"),
    ],
)
def test_what_is_no_trace_is_told_by_its_line(lines, said):
    """A file of a hundred thousand lines is mended by whoever knows which one is wrong."""
    with pytest.raises(TraceError, match=said):
        trace(lines, Random(1))
