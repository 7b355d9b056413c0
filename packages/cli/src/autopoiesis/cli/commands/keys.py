"""`autopoiesis keys`: API keys of the router."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.installation import KEYS_FILE, found
from autopoiesis.cli.output import CommandError, console, print_json, progress, table
from autopoiesis.router import keys as stored
from autopoiesis.router.settings import RouterSettings

app = App(help="API keys of the router. Its file holds hashes alone; routers read it again when it changes.")


def keys_file(common: Common) -> Path:
    configured = common.settings(RouterSettings)[RouterSettings].keys
    return Path(configured) if configured else common.data / KEYS_FILE


@app.command
def create(
    name: str,
    *,
    admin: Annotated[
        bool, Parameter(help="For the admin endpoints instead of inference.", negative=())
    ] = False,
    requests_per_minute: Annotated[int, Parameter(help="Per router; 0 is no limit.")] = 0,
    concurrent: Annotated[int, Parameter(help="Requests in flight per router; 0 is no limit.")] = 0,
    common: Common = COMMON,
) -> None:
    """Make a key for NAME and print it, once: nobody can learn it again."""
    if min(requests_per_minute, concurrent) < 0:
        raise CommandError("limits must not be negative; 0 is no limit")
    path = keys_file(common)
    known = stored.load(path) if path.exists() else {}
    key, text = stored.create(
        name,
        scopes=("admin",) if admin else ("inference",),
        requests_per_minute=requests_per_minute,
        concurrent=concurrent,
    )
    stored.save(path, [*known.values(), key])
    if common.json:
        print_json({"id": key.id, "name": key.name, "key": text, "file": str(path)})
        return
    console.print(text, soft_wrap=True)
    progress.print(
        f"{path} has its hash; routers with router.keys = {path} take it from now on", soft_wrap=True
    )
    running = found(common.data)
    if running is not None and not running.admin_token:
        progress.print(
            "the router that runs here was started without keys and asks for none: start it again",
            soft_wrap=True,
        )


@app.command(name="list")
def list_keys(*, common: Common = COMMON) -> None:
    """Show the keys: id, name, scopes, limits."""
    known = stored.load(keys_file(common)).values()
    if common.json:
        print_json([msgspec.to_builtins(key) | {"sha256": None} for key in known])
        return
    rows = [
        (
            key.id,
            key.name,
            ", ".join(key.scopes),
            key.requests_per_minute or "",
            key.concurrent or "",
            _day(key.created_unix_s),
            _day(key.revoked_unix_s),
        )
        for key in known
    ]
    console.print(
        table("keys", ("id", "name", "scopes", "per minute", "concurrent", "created", "revoked"), rows)
    )


@app.command
def revoke(key: str, *, common: Common = COMMON) -> None:
    """Refuse a key from now on. KEY is its id or its name."""
    path = keys_file(common)
    known = stored.load(path)
    valid = [entry for entry in known.values() if key in {entry.id, entry.name} and not entry.revoked_unix_s]
    if len(valid) != 1:
        what = "no valid key is" if not valid else f"{len(valid)} keys are"
        raise CommandError(
            f"{what} called {key!r} in {path}; `autopoiesis keys list` shows them with their ids"
        )
    revoked = msgspec.structs.replace(valid[0], revoked_unix_s=time.time())
    stored.save(path, (known | {revoked.id: revoked}).values())
    console.print(f"revoked: {revoked.id} ({revoked.name})")


def _day(unix_s: float | None) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M}" if unix_s else ""
