from itertools import islice

from gateway.demo.prose import speak


def test_the_first_words_say_that_it_is_simulated():
    assert "".join(speak("gpu-a", "hello")).startswith("This is a simulated answer from gpu-a; no model is running")


def test_the_same_prompt_gets_the_same_answer_and_another_prompt_another():
    assert list(speak("a", "one")) == list(speak("a", "one"))
    assert len({"".join(speak("a", str(number))) for number in range(50)}) > 10


def test_an_answer_ends_with_a_sentence_and_is_neither_short_nor_long():
    for number in range(50):
        pieces = list(speak("a", str(number)))
        assert 50 < len(pieces) < 180
        assert pieces[-1] == "."


def test_an_endless_answer_goes_on_in_sentences():
    text = "".join(islice(speak("a", "x", endless=True), 3000))
    assert len(text) > 9000
    assert "  " not in text
