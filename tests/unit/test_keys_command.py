"""`autopoiesis keys`: what it prints, and what is left in the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from autopoiesis.cli.app import run
from autopoiesis.cli.installation import Installation, Shape
from autopoiesis.cli.sections import SECTIONS
from autopoiesis.router import keys
from autopoiesis.router.auth import Doorkeeper
from autopoiesis.router.errors import ApiError
from autopoiesis.runtime.settings import Settings


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def command(*arguments: str, data: Path) -> int:
    return run(["keys", *arguments, "--data", str(data)])


def enter(data: Path, text: str) -> bytes:
    return Doorkeeper(data / "keys.json").enter([(b"x-api-key", text.encode())]).tenant


def test_create_list_revoke(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed() -> Any:
        return json.loads(capsys.readouterr().out)

    assert command("create", "alice", "--requests-per-minute", "60", "--json", data=data) == 0
    made = printed()
    assert enter(data, made["key"]) == made["id"].encode()
    assert command("create", "ops", "--admin", "--json", data=data) == 0
    ops = printed()
    with pytest.raises(ApiError, match="no scope inference"):
        enter(data, ops["key"])

    assert command("list", "--json", data=data) == 0
    listed = capsys.readouterr().out
    names = {entry["name"]: entry for entry in json.loads(listed)}
    assert names["alice"]["requests_per_minute"] == 60
    assert names["ops"]["scopes"] == ["admin"]
    stored = (data / "keys.json").read_text()
    for text in (made["key"], ops["key"]):
        secret = keys.parts(text)[1]
        assert secret not in listed + stored

    assert command("revoke", "alice", data=data) == 0
    with pytest.raises(ApiError, match="valid API key"):
        enter(data, made["key"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("list",), "does not exist"),
        (("revoke", "nobody"), "does not exist"),
        (("create", "x", "--concurrent", "-1"), "negative"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: tuple[str, ...], complaint: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments, data=data) == 2
    assert complaint in capsys.readouterr().err


def test_a_name_that_two_keys_have_is_not_revoked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert command("create", "twin", data=data) == 0
    assert command("revoke", "twin", data=data) == 2
    assert "2 keys" in capsys.readouterr().err


def test_the_configured_file_is_used(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "autopoiesis.yaml").write_text("router: {keys: elsewhere/keys.json}\n")
    assert command("create", "alice", data=data) == 0
    assert len(keys.load(tmp_path / "elsewhere" / "keys.json")) == 1
    assert not data.exists()


def test_an_installation_gives_its_router_the_keys_and_a_token(data: Path) -> None:
    def door(**flags: str) -> dict[str, str]:
        settings = Settings.load(
            *SECTIONS, env={}, flags={f"router.{key}": value for key, value in flags.items()}
        )
        with Installation(data, settings, Shape(workers=())) as installation:
            return installation._door()

    assert door() == {}
    assert command("create", "alice", data=data) == 0
    made = door()
    assert made["AUTOPOIESIS_ROUTER_KEYS"] == str(data / "keys.json")
    assert len(made["AUTOPOIESIS_ROUTER_ADMIN_TOKEN"]) > 20
    assert door()["AUTOPOIESIS_ROUTER_ADMIN_TOKEN"] == made["AUTOPOIESIS_ROUTER_ADMIN_TOKEN"]
    given = door(keys="own.json", admin_token="mine", tls_certificate="chain.pem")
    assert given == {
        "AUTOPOIESIS_ROUTER_KEYS": str(Path("own.json").absolute()),
        "AUTOPOIESIS_ROUTER_ADMIN_TOKEN": "mine",
        "AUTOPOIESIS_ROUTER_TLS_CERTIFICATE": str(Path("chain.pem").absolute()),
    }
