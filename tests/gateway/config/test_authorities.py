import pytest

from tests.parts.transports import certified

FILE = "backends:\n  gpu:\n    kind: vllm\n    base_url: {}://h/v1\n    ca: {}\n"
REMEDY = "name a readable PEM file with the certificate of each authority to trust"


def test_the_authorities_of_a_backend_are_read_beside_the_file(settings_of, tmp_path):
    """A relative path starts there, an absolute one is what it is; none means the usual ones."""
    ca = certified(tmp_path).ca
    for name in ("ca.pem", str(ca)):
        (backend,) = settings_of(FILE.format("https", name)).backends
        assert backend.ca == ca
    (backend,) = settings_of(FILE.format("https", ca).replace(f"    ca: {ca}\n", "")).backends

    assert backend.ca is None


def test_what_holds_no_authorities_is_told_with_its_line(mistakes_of, tmp_path):
    """A file that is missing, a folder, a key, an empty one, a certificate that is torn."""
    files = certified(tmp_path)
    (tmp_path / "empty.pem").touch()
    (tmp_path / "torn.pem").write_bytes(files.ca.read_bytes()[:200])
    for name, message in {
        "none.pem": "cannot be read: No such file",
        ".": "cannot be read: Is a directory",
        "key.pem": "holds no certificates",
        "empty.pem": "holds no certificates",
        "torn.pem": "holds no certificates",
        "''": "is empty",
    }.items():
        (mistake,) = mistakes_of(FILE.format("https", name))
        assert (mistake.line, mistake.where) == (5, "backends.gpu.ca")
        assert message in mistake.message
        assert mistake.remedy == REMEDY or name == "''"


def test_authorities_for_a_backend_without_tls_would_do_nothing(mistakes_of, tmp_path):
    """So they are refused."""
    (mistake,) = mistakes_of(FILE.format("http", certified(tmp_path).ca))

    assert (mistake.line, mistake.where) == (5, "backends.gpu.ca")
    assert mistake.message == "does nothing: base_url has no TLS"


@pytest.mark.parametrize("value", ["0", "-1", "65536", "many", "1.5"])
def test_a_bound_on_connections_is_a_whole_number(mistakes_of, settings_of, value):
    """From one on; without one there is no bound."""
    text = "backends:\n  gpu: {{kind: vllm, base_url: http://h/v1, max_connections: {}}}\n"
    (mistake,) = mistakes_of(text.format(value))

    assert (mistake.line, mistake.where) == (2, "backends.gpu.max_connections")
    assert mistake.remedy == "write connections from 1 to 65,535"
    assert settings_of(text.format(8)).backends[0].max_connections == 8


def test_other_authorities_in_the_same_file_are_another_backend(settings_of, tmp_path):
    """Its connections were made by those before."""
    ca = certified(tmp_path).ca
    text = FILE.format("https", ca)
    (before,) = settings_of(text).backends
    (same,) = settings_of(text).backends
    ca.write_bytes(ca.read_bytes() + b"\n")
    (after,) = settings_of(text).backends

    assert same == before != after
    assert (after.ca, len(after.ca_digest)) == (ca, 64)
