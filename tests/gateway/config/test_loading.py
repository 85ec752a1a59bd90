from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from gateway.config import ConfigError, builtin, load
from gateway.config.reading import keys_of
from gateway.config.schema import FileRow
from gateway.config.settings import STANDARD, Backend, Listen, StoreSettings
from gateway.config.values import STAND_IN
from tests.parts.certificates import self_signed

ONE = "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.yaml", {})


def test_the_digest_is_of_the_files_bytes(settings_of):
    assert settings_of(ONE).digest == sha256(ONE.encode()).hexdigest()[:12]
    assert settings_of(f"{ONE}# a word\n").digest != settings_of(ONE).digest


def test_mistakes_come_in_the_files_order_and_name_the_file(mistakes_of, tmp_path):
    mistakes = mistakes_of("organizations: {acme: {plan: gold}}\nlisten: {port: x}\nbackends: {g: {kind: x}}\n")
    assert [mistake.line for mistake in mistakes] == [1, 2, 3, 3]
    assert all(str(mistake).startswith(f"{tmp_path / 'sluiceway.yaml'}:{mistake.line}: ") for mistake in mistakes)


def test_nothing_secret_is_printed_of_settings(settings_of):
    settings = settings_of(
        "admin_key: hunter2-admin-hunter2\n"
        "store: {url: redis://:hunter2@h}\n"
        "backends: {gpu: {kind: vllm, base_url: http://h/v1, api_key: hunter2-backend}}\n"
    )
    assert settings.admin_key == "hunter2-admin-hunter2"
    for printed in (repr(settings), str(settings), pretty_repr(settings), f"{settings.backends}"):
        assert "hunter2" not in printed
        assert "***" in printed


def test_without_a_file_and_a_key_there_is_no_backend():
    settings = builtin({}, Path("/data"))
    assert settings.listen == Listen("127.0.0.1", 8600)
    assert settings.operations == Listen("127.0.0.1", 8601)
    assert settings.store == StoreSettings("embedded", Path("/data"), "deny")
    assert settings.admin_key is None
    assert settings.backends == ()
    assert settings.models is None
    assert settings.plans == {"standard": STANDARD}


def test_without_a_file_the_hosted_endpoint_joins_when_its_key_is_set():
    settings = builtin({"NVIDIA_API_KEY": "nvapi-hunter2\n"}, Path("/data"))
    assert settings.backends == (Backend("hosted", "nvidia", "https://integrate.api.nvidia.com/v1", "nvapi-hunter2"),)
    assert "hunter2" not in repr(settings)
    assert len(settings.digest) == 12
    assert settings.digest != builtin({}, Path("/data")).digest
    assert settings.digest == builtin({"NVIDIA_API_KEY": "another"}, Path("/elsewhere")).digest


def told(path):
    """Return the mistakes of a file as text, None when there are settings instead."""
    try:
        load(path, {})
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes]
    return None


def test_who_asks_for_no_secret_needs_none(tmp_path):
    """Neither in the environment nor in a file: a stand-in takes its place, also of the store's URL."""
    path = tmp_path / "sluiceway.yaml"
    path.write_text(
        'admin_key: "${ADMIN}"\nstore: {url: "redis://:${PASSWORD}@h"}\n'
        'backends:\n  a: {kind: nvidia, base_url: http://h/v1, api_key: "${KEY}"}\n'
        "  b: {kind: vllm, base_url: http://h/v1, api_key: {file: nowhere}}\n"
    )

    settings = load(path, {"KEY": "hunter2"}, secrets=False)

    assert len(told(path)) == 4
    assert {backend.api_key for backend in settings.backends} == {STAND_IN}
    assert (settings.admin_key, settings.store.url) == (STAND_IN, STAND_IN)


def test_what_is_no_secret_is_needed_by_everybody(tmp_path):
    """And so is the shape of one."""
    path = tmp_path / "sluiceway.yaml"
    path.write_text(
        'admin_key: {files: x}\nbackends:\n  a: {kind: vllm, base_url: "http://${HOST}/v1", api_key: "${KEY}"}\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(path, {}, secrets=False)

    assert [mistake.line for mistake in caught.value.mistakes] == [1, 3]


KEYS = st.sampled_from(
    [*keys_of(FileRow), "plan", "kind", "deployments", "backend", "model", "limit", "standard", "gpu"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | KEYS
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=4), max_leaves=12
)


@trying(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(VALUES)
def test_any_yaml_is_settings_or_mistakes(tmp_path, value):
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(value))
    lines = told(path)
    assert lines is None or all(len(line.splitlines()) == 1 for line in lines)


@trying(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text("{}[]:,-&*!|>'\"#%@` \nab", max_size=40).map(str.encode))
def test_any_bytes_are_settings_or_mistakes(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    lines = told(path)
    assert lines
    assert all(len(line.splitlines()) == 1 for line in lines)


def test_settings_tell_the_files_that_they_were_read_from(settings_of, tmp_path):
    """The file itself first, then secrets, authorities and the callers' certificate; lists have their own watch."""
    pair = self_signed(tmp_path)
    (tmp_path / "secret").write_text("key-of-the-backend")
    (tmp_path / "replicas").write_text("http://h/v1")
    text = (
        f"listen: {{tls: {{cert: {pair[0]}, key: {pair[1]}}}}}\n"
        f"backends:\n  a: {{kind: vllm, base_url: https://h/v1, ca: {pair[0]}, api_key: {{file: secret}}}}\n"
        "  b: {kind: vllm, list: replicas}\n"
    )

    files = settings_of(text).files

    assert files[0] == tmp_path / "sluiceway.yaml"
    assert set(files[1:]) == {tmp_path / "secret", *pair}


def test_a_file_with_mistakes_tells_what_could_mend_it(settings_of, tmp_path):
    """Files that are missing too, and lists, which may be what is wrong with it."""
    text = (
        "listen: {tls: {cert: c, key: k}}\n"
        "backends:\n  a: {kind: vllm, base_url: https://h/v1, ca: ca, api_key: {file: secret}}\n"
        "  b: {kind: vllm, list: replicas}\n"
    )
    with pytest.raises(ConfigError) as caught:
        settings_of(text)

    assert set(caught.value.files) == {
        tmp_path / name for name in ["sluiceway.yaml", "ca", "secret", "c", "k", "replicas"]
    }
