"""What an operator names a policy by: a shipped name, a file, or the beginning of a hash in the store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from autopoiesis.cli.context import Common
from autopoiesis.cli.output import CommandError
from autopoiesis.contracts.messages.policy import Origin
from autopoiesis.policy import library
from autopoiesis.policy.api import KINDS, Kind
from autopoiesis.policy.language import compile_policy, kind_of
from autopoiesis.store import NotFoundError, Store, operations
from autopoiesis.store.operations import Shown

T = TypeVar("T")
SHORT: Final = 12
"""Digits of a hash that tables show."""
SHIPPED: Final[dict[str, Kind]] = {name: kind for kind in KINDS for name in library.names(kind, every=True)}
"""Name of every shipped policy to its kind."""


@dataclass(frozen=True, slots=True)
class Source:
    """A policy that is not looked up in the store."""

    name: str
    """As the operator wrote it."""
    text: str
    origin: Origin

    @property
    def kind(self) -> Kind:
        """That of the functions it defines."""
        return kind_of(self.text) or "dispatch"

    def hash(self) -> str:
        """Raises PolicyError for a text that is no policy."""
        return compile_policy(self.text, self.kind).hash


def source_of(policy: str) -> Source | None:
    """A shipped policy or a file; None for anything else, which is then a hash. Raises CommandError."""
    if policy in SHIPPED:
        return Source(policy, library.source(policy), "library")
    file = Path(policy)
    return Source(policy, read(file), "operator") if file.is_file() else None


def read(file: Path) -> str:
    """The text of a policy file. Raises CommandError."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CommandError(f"{file} does not exist; shipped policies are {', '.join(SHIPPED)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} is not a text file: {error}") from error


def with_store(common: Common, act: Callable[[Store], Awaitable[T]]) -> T:
    """What `act` makes of the open store."""

    async def run() -> T:
        async with common.store() as store:
            return await act(store)

    return asyncio.run(run())


def stored(common: Common, policy: str) -> Shown:
    """The policy whose hash begins so, and what is known of it. Raises CommandError, or StoreError without a database."""
    try:
        return with_store(common, lambda store: operations.show(store, policy))
    except NotFoundError as error:
        raise CommandError(
            f"{error}, and it is neither a file nor a shipped policy; `autopoiesis policy list` shows what there is"
        ) from error


def stored_if_any(common: Common, hash_: str) -> Shown | None:
    """The same where the store has it; None where it does not, or where nothing runs here."""
    try:
        common.database_url()
    except CommandError:
        return None
    try:
        return with_store(common, lambda store: operations.show(store, hash_))
    except NotFoundError:
        return None
