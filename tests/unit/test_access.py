"""Keys, quotas, and files that change: who is let in and how much."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access import key_command
from server.access.fresh import Fresh
from server.access.gate import Gate, credential_of
from server.access.keys import digest_of, new_secret, read_keys
from server.access.quota import Limits, Quota
from server.errors import PermissionDenied, QuotaExceeded, SettingsFault, Unauthenticated


def key_file(path: Path, text: str = "", **secrets: str) -> Path:
    tables = [
        f'[keys.{name}]\nsha256 = "{digest_of(key)}"\n{text}' for name, key in secrets.items()
    ]
    path.write_text("\n".join(tables))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_key_is_found_by_its_hash_and_no_other_is(file: Path) -> None:
    ring = read_keys(key_file(file, web="secret", other="another"))
    assert (found := ring.find("secret")) is not None
    assert found.name == "web"
    for wrong in ["", "Secret", "secret ", digest_of("secret"), "\udcff", "x" * 10_000]:
        assert ring.find(wrong) is None


def test_the_file_holds_no_key_and_old_and_new_live_side_by_side(file: Path) -> None:
    hashes = [hashlib.sha256(one).hexdigest() for one in (b"old", b"new")]
    file.write_text(f"[keys.web]\nsha256 = {hashes!r}\n".replace("'", '"'))
    ring = read_keys(file)
    assert ring.find("old") == ring.find("new") is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[keys.web]\n", "keys.web.sha256: Field required"),
        ('[keys.web]\nsha256 = "abc"\n', "keys.web.sha256.0: "),
        (f'[keys.web]\nsha256 = "{"0" * 64}"\ntypo = 1\n', "keys.web.typo: "),
        (f'[keys.web]\nsha256 = "{"0" * 64}"\ntokens_per_day = 0\n', "tokens_per_day: "),
        (f'[keys.web]\nsha256 = "{"0" * 64}"\nadmin = "yes"\n', "keys.web.admin: "),
        (f'[keys."a b"]\nsha256 = "{"0" * 64}"\n', "keys.a b: a name is"),
        (f'[keys.a]\nsha256="{"0" * 64}"\n[keys.b]\nsha256="{"0" * 64}"\n', "keys.b: has a hash"),
        ("[keys", "is no TOML"),
    ],
)
def test_a_faulty_file_is_one_line_that_repeats_no_hash(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsFault) as caught:
        read_keys(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "0000" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsFault, match=r"nowhere.toml: No such file"):
        Gate(tmp_path / "nowhere.toml")


def test_without_a_file_everybody_comes_in_and_nothing_is_counted() -> None:
    visit = Gate(None).enter(None)
    visit.charge(10**9)
    visit.spend(10**9)
    visit.check_admin()
    visit.leave()
    assert visit.tenant is None


def test_with_one_only_known_keys_come_in_and_the_name_is_the_tenant(file: Path) -> None:
    gate = Gate(key_file(file, web="secret"))
    for wrong in [None, "", "guess"]:
        with pytest.raises(Unauthenticated) as caught:
            gate.enter(wrong)
        assert not wrong or wrong not in str(caught.value)
    visit = gate.enter("secret")
    assert visit.tenant == "web"
    with pytest.raises(PermissionDenied, match="'web' may not change"):
        visit.check_admin()


def test_a_key_that_may_change_models_says_so(file: Path) -> None:
    Gate(key_file(file, "admin = true\n", ops="secret")).enter("secret").check_admin()


def test_requests_side_by_side_are_counted_down_once_each(file: Path) -> None:
    gate = Gate(key_file(file, "concurrent_requests = 2\n", web="secret"))
    first, _ = gate.enter("secret"), gate.enter("secret")
    with pytest.raises(QuotaExceeded, match="2 requests of 'web'"):
        gate.enter("secret")
    first.leave()
    first.leave()
    gate.enter("secret")
    with pytest.raises(QuotaExceeded):
        gate.enter("secret")


def test_characters_are_refused_before_and_given_back_after_a_refusal(file: Path) -> None:
    gate = Gate(key_file(file, "characters_per_minute = 100\n", web="secret"))
    visit = gate.enter("secret")
    visit.charge(90)
    with pytest.raises(QuotaExceeded, match="has used its 100 characters a minute") as caught:
        gate.enter("secret").charge(40)
    assert caught.value.retry_after_seconds == pytest.approx(18, abs=0.5)
    visit.refund()
    gate.enter("secret").charge(100)


def test_what_never_fits_asks_for_no_second_try(file: Path) -> None:
    gate = Gate(key_file(file, "characters_per_day = 100\n", web="secret"))
    with pytest.raises(QuotaExceeded, match="101 characters at once") as caught:
        gate.enter("secret").charge(101)
    assert caught.value.retry_after_seconds is None


def test_tokens_may_go_over_once_and_are_then_owed() -> None:
    quota = Quota("web", Limits(tokens_per_minute=60), now=0.0)
    quota.begin(0.0)
    quota.use(120, "tokens")
    with pytest.raises(QuotaExceeded) as caught:
        quota.begin(0.0)
    assert caught.value.retry_after_seconds == pytest.approx(61)
    quota.begin(61.0)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 150)), min_size=1, max_size=60),
    st.integers(1, 100),
)
def test_no_window_gets_more_than_a_full_bucket_and_its_refill(
    asked: list[tuple[float, int]], limit: int
) -> None:
    quota, now, taken = Quota("web", Limits(characters_per_minute=limit), now=0.0), 0.0, []
    for pause, count in asked:
        now += pause
        try:
            quota.take_characters(count, now)
        except QuotaExceeded as error:
            if error.retry_after_seconds is not None:  # it is true: then there is enough
                now += error.retry_after_seconds + 1e-6
                quota.take_characters(count, now)
                taken.append((now, count))
        else:
            taken.append((now, count))
    for index, (start, _) in enumerate(taken):
        total = 0
        for moment, count in taken[index:]:
            total += count
            assert total <= limit + (moment - start) * limit / 60 + 1e-3


def test_a_changed_file_counts_a_faulty_one_does_not(file: Path) -> None:
    gate = Gate(key_file(file, web="secret"))
    key_file(file, web="later")
    gate.reload()
    gate.enter("later")
    with pytest.raises(Unauthenticated):
        gate.enter("secret")
    file.write_text("[keys")
    gate.reload()
    gate.enter("later")
    key_file(file, web="last")
    gate.reload()
    gate.enter("last")


def test_what_was_used_survives_a_reload_unless_the_limits_are_others(file: Path) -> None:
    gate = Gate(key_file(file, "characters_per_day = 10\n", web="secret"))
    gate.enter("secret").charge(10)
    key_file(file, "characters_per_day = 10\n", web="secret", more="m")
    gate.reload()
    with pytest.raises(QuotaExceeded):
        gate.enter("secret").charge(1)
    key_file(file, "characters_per_day = 11\n", web="secret")
    gate.reload()
    gate.enter("secret").charge(11)


def test_a_change_is_seen_without_a_signal_and_not_at_every_look(tmp_path: Path) -> None:
    file, reads = tmp_path / "file", []
    file.write_text("1")

    def read() -> str:
        reads.append(file.read_text())
        return reads[-1]

    fresh = Fresh([file], read, look_seconds=0.0)
    file.write_text("two")
    assert [fresh.get() for _ in range(3)] == ["two"] * 3
    assert reads == ["1", "two"]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([("authorization", "Bearer k")], "k"),
        ([("Authorization", "bearer  k ")], "k"),
        ([("x-api-key", "k")], "k"),
        ([("authorization", "Basic abc")], None),
        ([("authorization", b"Bearer k")], None),
        ([("user-agent", "x")], None),
    ],
)
def test_a_key_may_come_in_two_headers(headers: list[tuple[str, str]], found: str | None) -> None:
    assert credential_of(headers) == found


def test_the_command_makes_keys_that_open_and_keeps_none(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert key_command.main(["web", "--file", str(file), "--tokens-per-day", "9"]) == 0
    secret = capsys.readouterr().out.strip()
    assert key_command.main(["ops.1", "--file", str(file), "--admin"]) == 0
    admin = capsys.readouterr().out.strip()
    assert secret.startswith("dgm_")
    assert len(secret) > 40
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    gate = Gate(file)
    visit = gate.enter(secret)
    assert visit.tenant == "web"
    gate.enter(admin).check_admin()
    assert read_keys(file).find(secret).limits == Limits(tokens_per_day=9)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "said"), [("web", "has a key named 'web' already"), ("a b", "is no name")]
)
def test_the_command_refuses_in_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    key_file(file, web="secret")
    before = file.read_bytes()
    assert key_command.main([name, "--file", str(file)]) == 2
    assert said in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_keys_are_never_alike() -> None:
    assert len({new_secret() for _ in range(100)}) == 100


def test_one_key_among_a_thousand_is_found(file: Path) -> None:
    lines = [f'[keys.k{n}]\nsha256 = "{os.urandom(32).hex()}"' for n in range(1000)]
    lines.append(f'[keys.web]\nsha256 = "{digest_of("secret")}"')
    file.write_text("\n".join(lines))
    ring = read_keys(file)
    assert len(ring) == 1001
    assert ring.find("secret") is not None
