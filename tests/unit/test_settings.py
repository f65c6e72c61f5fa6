from __future__ import annotations

import re

import pydantic
import pytest

from server.errors import SettingsFault
from server.settings import Settings, read_settings


def test_flags_win_over_the_environment_and_the_environment_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DRAGOMAN_SLOTS", "7")
    monkeypatch.setenv("DRAGOMAN_WINDOW", "9")
    settings = read_settings(["--slots", "5"])
    assert (settings.slots, settings.window, settings.port) == (5, 9, 50051)


def test_a_misspelt_environment_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_SLOT", "7")
    with pytest.raises(SettingsFault, match="DRAGOMAN_SLOT"):
        read_settings([])


def test_a_value_out_of_range_is_one_line_that_names_the_setting() -> None:
    with pytest.raises(SettingsFault) as caught:
        read_settings(["--slots", "0"])
    assert "slots" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["--slots", "many"], ["--golden-check", "perhaps"]])
def test_a_value_of_the_wrong_kind_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SettingsFault):
        read_settings(arguments)


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(["--no-such-flag"])
    assert "no-such-flag" in capsys.readouterr().err


def test_settings_are_frozen_and_every_one_is_described() -> None:
    settings = Settings()
    with pytest.raises(pydantic.ValidationError):
        settings.slots = 3  # type: ignore[misc]
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_every_cap_has_a_finite_default() -> None:
    for name, value in Settings().model_dump().items():
        if re.match(r"max_(?!connection)", name):
            assert isinstance(value, int), name
            assert value > 0
