from gateway.config.mistakes import At, ConfigError, Mistake, shown


def test_a_mistake_reads_as_a_compiler_writes_it():
    mistake = Mistake(7, "backends.gpu-a.kind", "'vlm' is not known here", "did you mean `vllm`?", "s.yaml")
    assert str(mistake) == "s.yaml:7: backends.gpu-a.kind: 'vlm' is not known here; did you mean `vllm`?"


def test_a_place_grows_by_keys_and_items():
    at = At(1, "").key("models", 3).key("m", 4).key("deployments", 5).item(1, 7)
    assert (at.line, at.where) == (7, "models.m.deployments[1]")
    assert at.key("backend") == At(7, "models.m.deployments[1].backend")


def test_an_unprintable_key_stays_on_one_line():
    assert At(1, "models").key("a\nb").where == r"models.'a\nb'"


def test_shown_values_are_quoted_cut_and_on_one_line():
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) < 80


def test_an_error_tells_every_mistake_on_its_own_line():
    mistakes = (Mistake(1, "a", "is b", "write c", "f"), Mistake(2, "d", "is e", "write f", "f"))
    error = ConfigError(mistakes)
    assert error.mistakes == mistakes
    assert str(error).splitlines() == ["f:1: a: is b; write c", "f:2: d: is e; write f"]
