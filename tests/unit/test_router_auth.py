"""Keys, scopes and limits at the door."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.router import keys
from autopoiesis.router.app import listen_options
from autopoiesis.router.auth import Doorkeeper, Visit
from autopoiesis.router.errors import ApiError
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime.errors import OperatorError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """A doorkeeper, its file and its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: list[keys.Key] = []
        self.clock = Clock()
        keys.save(path, ())
        self.keeper = Doorkeeper(path, self.clock)

    def key(self, **fields: Any) -> str:
        key, text = keys.create("someone", **fields)
        self.known.append(key)
        self.save()
        return text

    def save(self) -> None:
        keys.save(self.path, self.known)
        self.keeper.refresh()

    def enter(self, text: str) -> Visit:
        return self.keeper.enter(bearer(text))


def bearer(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + text.encode())]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "keys.json")


def refused(door: Door, headers: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        door.keeper.enter(headers)
    return caught.value


def test_everybody_enters_where_no_keys_are_wanted() -> None:
    visit = Doorkeeper(None).enter([])
    assert visit.tenant == b""
    visit.leave()


def test_a_key_enters_in_either_header_and_names_the_tenant(door: Door) -> None:
    text = door.key()
    identity, _ = keys.parts(text)
    assert door.enter(text).tenant == identity.encode()
    assert door.keeper.enter([(b"x-api-key", text.encode())]).tenant == identity.encode()


def test_the_file_holds_no_secret_and_is_its_owners_alone(door: Door) -> None:
    _, secret = keys.parts(door.key())
    assert secret not in door.path.read_text()
    assert door.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer apo-",
        b"Bearer apo-000000000000-x",
        b"Basic abc",
        b"Bearer \xff\xfe",
    ],
)
def test_others_are_refused(door: Door, header: bytes) -> None:
    door.key()
    assert refused(door, [(b"authorization", header)]).status == 401


@given(change=st.integers(0, 200), letter=st.sampled_from("abcXYZ019-_"))
def test_a_changed_key_is_refused(change: int, letter: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    door = Door(tmp_path_factory.mktemp("keys") / "keys.json")
    text = door.key()
    place = change % len(text)
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        assert refused(door, bearer(changed)).status == 401


def test_a_revoked_key_is_refused_once_the_file_was_read_again(door: Door) -> None:
    text = door.key()
    door.enter(text)
    door.known[0] = msgspec.structs.replace(door.known[0], revoked_unix_s=1.0)
    door.save()
    assert refused(door, bearer(text)).code == "invalid_api_key"


def test_an_admin_key_is_not_for_inference_nor_the_other_way_round(door: Door) -> None:
    admin, plain = door.key(scopes=("admin",)), door.key()
    error = refused(door, bearer(admin))
    assert (error.status, error.code) == (403, "insufficient_scope")
    assert door.keeper.identify(bearer(admin), "admin").scopes == ("admin",)
    with pytest.raises(ApiError, match="no scope admin"):
        door.keeper.identify(bearer(plain), "admin")


def test_requests_per_minute(door: Door) -> None:
    text, other = door.key(requests_per_minute=30), door.key()
    for _ in range(30):
        door.enter(text)
    error = refused(door, bearer(text))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.retry_after_s == pytest.approx(2.0)
    door.enter(other)
    door.clock.now += 2.0
    door.enter(text)
    assert refused(door, bearer(text)).status == 429


def test_concurrent_requests(door: Door) -> None:
    text = door.key(concurrent=2)
    first, _ = door.enter(text), door.enter(text)
    assert refused(door, bearer(text)).status == 429
    first.leave()
    first.leave()  # twice is once
    door.enter(text)
    assert refused(door, bearer(text)).status == 429


def test_a_broken_file_leaves_the_keys_as_they_were(door: Door) -> None:
    text = door.key()
    door.path.write_text('{"keys": [{"id": "nonsense"}]}')
    door.keeper.refresh()
    door.enter(text)
    door.path.unlink()
    door.keeper.refresh()
    door.enter(text)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "does not exist"), ("{", "keys.json"), ('{"keys": [{"id": "x"}]}', r"\$\.keys\[0\]")],
)
def test_a_bad_file_at_start_is_named(tmp_path: Path, content: str | None, complaint: str) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OperatorError, match=complaint):
        Doorkeeper(path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org"])
def test_the_network_is_not_served_without_keys_unless_told_so(host: str) -> None:
    with pytest.raises(OperatorError, match=r"router\.anonymous"):
        listen_options(RouterSettings(host=host))
    assert listen_options(RouterSettings(host=host, anonymous=True)) == {}
    assert listen_options(RouterSettings(host=host, keys="keys.json")) == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert listen_options(RouterSettings(host=host)) == {}


def test_certificates_are_looked_at_before_listening(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="tls_certificate"):
        listen_options(RouterSettings(tls_certificate=str(tmp_path / "none.pem")))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(OperatorError, match="tls_certificate"):
        listen_options(RouterSettings(tls_certificate=os.fspath(tmp_path / "empty.pem")))
    with pytest.raises(OperatorError, match="without router"):
        listen_options(RouterSettings(tls_key="key.pem"))
