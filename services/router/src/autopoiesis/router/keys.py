"""API keys at rest: one JSON file that holds hashes, scopes and limits, never a key.

A key is `apo-<id>-<secret>`. The secret is 256 random bits, so a single SHA-256 is as strong as any slow hash and costs a
microsecond per request (docs/adr/0008-api-keys.md).
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from autopoiesis.runtime.errors import OperatorError

PREFIX: Final = "apo-"
KeyScope = Literal["inference", "admin"]
_Limit = Annotated[int, msgspec.Meta(ge=0)]


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one key."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Of the secret, hexadecimal."""
    name: str = ""
    """Whose it is, for people."""
    scopes: tuple[KeyScope, ...] = ("inference",)
    requests_per_minute: _Limit = 0
    """Per router; 0 is no limit."""
    concurrent: _Limit = 0
    """Requests in flight per router; 0 is no limit."""
    created_unix_s: float = 0.0
    revoked_unix_s: float | None = None


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...] = ()


def create(name: str, **fields: object) -> tuple[Key, str]:
    """A new key and its text, which nobody can learn again. `fields` are those of `Key`."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    entry = {"id": identity, "sha256": digest(secret), "name": name, "created_unix_s": time.time()}
    return msgspec.convert(entry | fields, Key), f"{PREFIX}{identity}-{secret}"


def parts(text: str) -> tuple[str, str]:
    """Id and secret of a key's text; both empty where it is none."""
    identity, _, secret = text.removeprefix(PREFIX).partition("-")
    return (identity, secret) if text.startswith(PREFIX) else ("", "")


def digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def load(path: Path) -> dict[str, Key]:
    """By id. Raises OperatorError naming the file and what is wrong in it."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except FileNotFoundError:
        raise OperatorError(
            f"router.keys: {path} does not exist; `autopoiesis keys create NAME` makes it"
        ) from None
    except OSError as error:
        raise OperatorError(f"router.keys: cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise OperatorError(f"router.keys: {path}: {error}") from error
    return {key.id: key for key in found.keys}


def save(path: Path, keys: Iterable[Key]) -> None:
    """Replace the file in one step, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(KeyFile(keys=tuple(keys))))
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(encoded + b"\n")
    Path(name).replace(path)
