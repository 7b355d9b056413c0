"""PostgreSQL refuses to run as root: find an account, and a way into its directories."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from autopoiesis.runtime.errors import OperatorError

ACCOUNTS = ("postgres", "nobody")
THROUGH_CLOSED_PARENTS = (
    "--securebits=+no_setuid_fixup",  # else access(2) looks without capabilities, and PostgreSQL looks for its programs with that
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)


class AccountError(OperatorError):
    """Root, and no way to run PostgreSQL as somebody else; the message says what to set."""


def unprivileged(program: Path, directory: Path) -> list[str]:
    """Argument prefix that runs `program` on `directory` as a user who is not root; empty unless we are root.

    As root, `directory` is given to that user. Where a parent directory (say /root) is closed to it, the process
    keeps the one capability that opens it instead of the parent being opened to everybody.

    Raises `AccountError` when neither works.
    """
    if os.geteuid() != 0:
        return []
    account = _account()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise AccountError(
            "PostgreSQL does not run as root, and `setpriv` (package util-linux), which changes the user, was not found: "
            "install it, run as an ordinary user, or set database.url to a server that runs elsewhere"
        )
    _give(directory, account)
    identity = [
        setpriv,
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--pdeathsig=KILL",
    ]
    failure = ""
    for extra in ((), THROUGH_CLOSED_PARENTS):
        prefix = [*identity, *extra]
        failure = _attempt([*prefix, str(program), "--version"]) or _attempt([*prefix, "ls", str(directory)])
        if not failure:
            return prefix
    raise AccountError(
        f"PostgreSQL does not run as root, and user {account.pw_name!r} can reach {program} or {directory} in no way ({failure}): "
        "run as an ordinary user, or choose a data directory and a virtual environment whose parents that user may enter"
    )


def _account() -> pwd.struct_passwd:
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return entry
    raise AccountError(
        f"PostgreSQL does not run as root, and none of the users {', '.join(ACCOUNTS)} exists: create one of them"
    )


def _give(directory: Path, account: pwd.struct_passwd) -> None:
    if directory.stat().st_uid == account.pw_uid:
        return
    for folder, _, files in os.walk(directory):
        for path in (folder, *(os.path.join(folder, file) for file in files)):  # noqa: PTH118
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _attempt(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    return "" if done.returncode == 0 else done.stderr.strip()
