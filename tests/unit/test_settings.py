from __future__ import annotations

import re
from pathlib import Path

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


def paths(*names: str) -> tuple[Path, ...]:
    return tuple(Path(name) for name in names)


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ([], None, paths("bundles/en-zh-TW")),
        (["--bundle", "a"], None, paths("a")),
        (["--bundle", "a b", "--bundle", "c"], None, paths("a b", "c")),
        (["--bundle", "a,c"], None, paths("a", "c")),
        ([], "a", paths("a")),
        ([], "a,/b/c", paths("a", "/b/c")),
        (["--bundle", "a"], "b,c", paths("a")),
    ],
)
def test_one_bundle_or_many_by_flag_or_environment(
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    environment: str | None,
    expected: tuple[Path, ...],
) -> None:
    if environment is not None:
        monkeypatch.setenv("DRAGOMAN_BUNDLE", environment)
    assert read_settings(flags).bundle == expected


def test_no_bundle_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_BUNDLE", "")
    with pytest.raises(SettingsFault, match="bundle"):
        read_settings([])


def test_nobody_may_change_models_unless_the_operator_says_so() -> None:
    assert not read_settings([]).model_admin
    assert read_settings(["--model-admin"]).model_admin


def test_every_cap_has_a_finite_default() -> None:
    for name, value in Settings().model_dump().items():
        if re.match(r"max_(?!connection)", name):
            assert isinstance(value, int), name
            assert value > 0
