"""Tests the settings. A flag overrides an environment variable, which overrides .env, which overrides the default. Each
setting is declared once. Errors name the variable and never show a secret.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

import config

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Removes all settings from the environment, and makes an empty folder the current one, where .env is read."""
    for name in list(os.environ):
        if name.startswith("SLUICE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(**flags: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  each test looks at the message
        config.load(flags)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def help_text() -> str:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return " ".join(parser.format_help().split())


def test_without_any_setting_the_defaults_apply() -> None:
    settings = config.load({})
    assert (settings.server.port, settings.server.address, settings.tokens.has_key) == (8000, "127.0.0.1", False)
    assert settings.images.max_slice_bytes == 16 << 20
    assert settings.images.formats == ("jpeg", "png", "webp")


def test_flags_override_the_environment_which_overrides_the_file_and_the_defaults(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.load({}).server.port == 8000
    (folder / ".env").write_text("# Sluice\nport=1001\njwt_secret='" + SECRET + "'\n")
    assert config.load({}).server.port == 1001
    monkeypatch.setenv("SLUICE_PORT", "1002")
    assert config.load({}).server.port == 1002
    settings = config.load({"port": "1003"})
    assert settings.server.port == 1003
    assert settings.tokens.jwt_secret
    assert settings.tokens.jwt_secret.get_secret_value() == SECRET


@pytest.mark.parametrize("said", ["http://a,https://b:1", "http://a https://b:1", " http://a , https://b:1 "])
def test_a_list_is_separated_by_commas_or_spaces_in_every_source(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    wanted = ("http://a", "https://b:1")
    (folder / ".env").write_text(f"allow_origins='{said}'\n")
    assert config.load({}).http.allow_origins == wanted
    monkeypatch.setenv("SLUICE_ALLOW_ORIGINS", said)
    assert config.load({}).http.allow_origins == wanted
    assert config.load({"allow_origins": said}).http.allow_origins == wanted


@pytest.mark.parametrize("name", config.SETTINGS)
def test_every_setting_is_in_the_help_with_its_flag_its_variable_and_its_default(name: str) -> None:
    text = help_text()
    _, field = config.SETTINGS[name]
    start = text.index(f"--{name.replace('_', '-')} ", text.index("options:"))
    shown, _, _ = text[start:].partition(f". Variable: SLUICE_{name.upper()}.")
    assert field.description
    assert field.description in shown
    assert " Default: " in shown
    default = shown.rpartition(" Default: ")[2]
    if field.default is None or field.default == ():
        assert default == "none"
    elif isinstance(field.default, tuple):
        assert default.split() == list(field.default)
    else:
        assert default.replace(",", "") == str(field.default)


@pytest.mark.parametrize("name", config.Settings.model_fields)
def test_the_help_describes_each_group_of_settings_above_its_flags(name: str) -> None:
    group = getattr(config.Settings(), name)
    first = next(field for field, (path, _) in config.SETTINGS.items() if path[0] == name)
    heading = f" {name.replace('_', ' ')}: {group.__doc__} --{first.replace('_', '-')} "
    assert heading in help_text()


def test_the_help_shows_defaults_and_never_the_current_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_JWT_SECRET", SECRET)
    assert SECRET not in help_text()


def test_a_secret_is_not_in_the_text_of_the_settings() -> None:
    assert SECRET not in repr(config.load({"jwt_secret": SECRET}))


WRONG: dict[str, tuple[dict[str, str], str, str]] = {
    # The settings, the variable that the error must name, and a word of the message.
    "a port that is not a number": ({"port": "http"}, "SLUICE_PORT", "integer"),
    "a port out of range": ({"port": "65536"}, "SLUICE_PORT", "65535"),
    "a limit of 0": ({"max_pixels": "0"}, "SLUICE_MAX_PIXELS", "greater than 0"),
    "a negative time": ({"slice_timeout": "-1"}, "SLUICE_SLICE_TIMEOUT", "greater than 0"),
    "an unknown isolation": ({"isolation": "none"}, "SLUICE_ISOLATION", "'process' or 'thread'"),
    "an unknown format": ({"formats": "jpeg,gif"}, "SLUICE_FORMATS", "jpeg, png, webp"),
    "an empty list of formats": ({"formats": ""}, "SLUICE_FORMATS", "jpeg, png, webp"),
    "a proxy that is not a network": ({"trusted_proxies": "proxy.example"}, "SLUICE_TRUSTED_PROXIES", "network"),
    "an unknown queue": ({"queue": "magic:"}, "SLUICE_QUEUE", "local:"),
    "an origin without scheme": ({"allow_origins": "pages.example"}, "SLUICE_ALLOW_ORIGINS", "https://pages.example"),
    "an origin with a path": ({"allow_origins": "https://a.example/"}, "SLUICE_ALLOW_ORIGINS", "without a path"),
    "a short secret": ({"jwt_secret": "hunter2"}, "SLUICE_JWT_SECRET", "at least 32 bytes"),
    "a JWKS address that is a file": ({"jwks_url": "file:///etc/keys"}, "SLUICE_JWKS_URL", "http"),
    "a public address without scheme": ({"public_url": "pictures.example"}, "SLUICE_PUBLIC_URL", "http"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_the_variable_and_the_expected_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    settings, variable, word = WRONG[case]
    ((name, value),) = settings.items()
    messages = {refusal(**settings)}
    (folder / ".env").write_text(f"{name}={value}\n")
    messages.add(refusal())
    (folder / ".env").unlink()
    monkeypatch.setenv(variable, value)
    messages.add(refusal())
    (line,) = messages
    assert line.startswith(f"{variable}: ")
    assert word in line
    assert "hunter2" not in line


def test_all_errors_are_reported_together() -> None:
    lines = refusal(port="http", max_pixels="0", formats="gif").splitlines()
    assert {line.split(":")[0] for line in lines} == {"SLUICE_PORT", "SLUICE_MAX_PIXELS", "SLUICE_FORMATS"}


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_server_without_a_key_may_listen_on_loopback_only(address: str) -> None:
    assert "set jwt_secret" in refusal(address=address)
    assert "set jwt_secret" in refusal(address=address, jwt_secret="")
    assert config.load({"address": address, "jwt_secret": SECRET}).server.address == address


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(address: str) -> None:
    assert not config.load({"address": address}).tokens.has_key


def test_only_one_key_may_be_set() -> None:
    assert "one of" in refusal(jwt_secret=SECRET, jwks_url="https://keys.example/jwks")
    assert "one of" in refusal(jwt_public_key="key.pem", jwks_url="https://keys.example/jwks")


def test_pong_timeout_may_not_exceed_ping_interval() -> None:
    assert "pong_timeout" in refusal(ping_interval="5", pong_timeout="10")


def test_an_unknown_setting_is_refused_with_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_PROT", SECRET)
    monkeypatch.setenv("SLUICE_JWT_SECRETS", SECRET)
    assert refusal() == (
        "SLUICE_JWT_SECRETS: there is no such setting; see --help\nSLUICE_PROT: there is no such setting; see --help"
    )
    monkeypatch.delenv("SLUICE_PROT")
    monkeypatch.delenv("SLUICE_JWT_SECRETS")
    (folder / ".env").write_text(f"prot={SECRET}\n")
    assert refusal() == "prot: there is no such setting; see --help"


def test_other_variables_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("SLUICEGATE", "1")
    assert config.load({}).server.port == 8000


LINKS = {
    "SLUICE_PORT": "tcp://10.0.0.1:8000",
    "SLUICE_SERVICE_HOST": "10.0.0.1",
    "SLUICE_SERVICE_PORT": "8000",
    "SLUICE_SERVICE_PORT_HTTP": "8000",
    "SLUICE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "SLUICE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "SLUICE_PORT_8000_TCP_PROTO": "tcp",
    "SLUICE_SCHEDULER_PORT": "tcp://10.0.0.2:8786",
    "SLUICE_SCHEDULER_SERVICE_HOST": "10.0.0.2",
}


@pytest.mark.parametrize("names", [[name] for name in LINKS] + [list(LINKS)])
def test_the_error_explains_variables_that_kubernetes_sets_for_a_service(
    monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    for name in names:
        monkeypatch.setenv(name, LINKS[name])
    (line,) = refusal().splitlines()
    assert line.startswith(tuple(f"{name}={LINKS[name]}: " for name in names))
    assert "enableServiceLinks: false" in line


@pytest.mark.parametrize("url", ["tcp://10.0.0.5:8786", "tcp://127.0.0.1:8786", "tls://[::1]:8786"])
def test_a_setting_may_have_a_url_as_its_value(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SLUICE_QUEUE", url)
    monkeypatch.setenv("SLUICE_JWT_SECRET", "x" * 32)
    assert config.load({"media": "file:media"}).cluster.queue == url


def test_each_setting_is_declared_once() -> None:
    assert sorted(config.SETTINGS) == sorted({path[-1] for path, _ in config.fields_of(config.Settings)})
    assert len(config.SETTINGS) == len(list(config.fields_of(config.Settings)))
