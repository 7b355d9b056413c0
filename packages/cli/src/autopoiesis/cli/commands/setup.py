"""`autopoiesis setup`: prepare an external PostgreSQL once, before the services start."""

import asyncio
from typing import ClassVar

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import CommandError, console
from autopoiesis.runtime.settings import DatabaseSettings, Secret, Section
from autopoiesis.store import provision


class PasswordSettings(Section, frozen=True, kw_only=True):
    """Passwords that `setup` gives to the database roles of the services."""

    prefix: ClassVar[str] = "database_passwords"
    observer: Secret = Secret()
    synthesizer: Secret = Secret()
    evaluator: Secret = Secret()
    operator: Secret = Secret()


def setup(*, common: Common = COMMON) -> None:
    """Migrate the database and create one role per service, with no more rights than it uses; may be repeated.

    Needs `database.url` of a role that may create roles, and the passwords as
    AUTOPOIESIS_DATABASE_PASSWORDS_<OBSERVER|SYNTHESIZER|EVALUATOR|OPERATOR>.
    """
    settings = common.settings(PasswordSettings)
    url = settings[DatabaseSettings].url
    if not url:
        raise CommandError(
            "database.url is not set: setup prepares an external PostgreSQL; `autopoiesis up` embeds one"
        )
    passwords = settings[PasswordSettings]

    def password(role: str) -> str:
        name = role.removeprefix("autopoiesis_")
        value: str = getattr(passwords, name)
        if not value:
            raise CommandError(
                f"database_passwords.{name} is not set (AUTOPOIESIS_DATABASE_PASSWORDS_{name.upper()})"
            )
        return value

    for role in asyncio.run(provision(url, password)):
        console.print(f"role autopoiesis_{role}: ready")
