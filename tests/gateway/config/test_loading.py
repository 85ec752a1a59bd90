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
