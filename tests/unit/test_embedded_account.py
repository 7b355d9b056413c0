"""Who runs PostgreSQL."""

import os
import shutil
from pathlib import Path

import pytest

from autopoiesis.runtime.embedded import account


def test_an_ordinary_user_runs_it_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert account.unprivileged(Path("/bin/true"), tmp_path) == []


def test_root_without_setpriv_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        account.AccountError, match=r"install it, run as an ordinary user, or set database\.url"
    ):
        account.unprivileged(Path("/bin/true"), tmp_path)


def test_root_without_any_account_is_told_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(account, "ACCOUNTS", ("no-such-user",))
    with pytest.raises(account.AccountError, match="none of the users no-such-user exists"):
        account.unprivileged(Path("/bin/true"), tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_hands_the_directory_over_even_below_a_closed_one(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    data = closed / "data"
    data.mkdir(parents=True)
    (data / "file").touch()
    closed.chmod(0o700)
    prefix = account.unprivileged(Path("/bin/true"), data)
    assert "--ambient-caps=+dac_override" in prefix
    assert data.stat().st_uid == (data / "file").stat().st_uid != 0
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_learns_why_it_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(
        account.AccountError, match=r"No such file.*choose a data directory and a virtual environment"
    ):
        account.unprivileged(tmp_path / "missing", tmp_path)
