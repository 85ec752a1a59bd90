from gateway.ledger.totals import UsageTotal, read


def test_totals_are_read_by_key_and_model_whatever_the_model_is_called():
    assert read(
        {
            b"k2|m|requests": b"1",
            b"k1|a|b|prompt_tokens": b"5",
            b"k1|a|b|requests": b"2",
            b"k1|a|b|estimated_tokens": b"7",
            b"k1|a|b|completion_tokens": b"9007199254740991",
        }
    ) == [
        UsageTotal("k1", "a|b", 2, 5, 2**53 - 1, 7),
        UsageTotal("k2", "m", requests=1),
    ]
    assert read({}) == []
