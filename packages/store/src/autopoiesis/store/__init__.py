"""PostgreSQL: policies, snapshots, evaluations, activations, outbox.

`Store.begin` opens a transaction that carries every repository (`Unit`); `migrate` and `provision` prepare a database;
`promotion` and `relay` are the two halves of telling the world; `operations` is what the command line does;
`BlobStore` keeps the open snapshots as files.
"""

from autopoiesis.store.blobs import BlobStore
from autopoiesis.store.engine import Exclusive, Store
from autopoiesis.store.errors import (
    CorruptBlobError,
    DatabaseUnreachableError,
    NotFoundError,
    NotMigratedError,
    StaleError,
    StoreError,
)
from autopoiesis.store.migrations import migrate
from autopoiesis.store.repositories.activations import Standing
from autopoiesis.store.repositories.control import EVERY_SCOPE, Mode
from autopoiesis.store.roles import ROLES, Role, provision
from autopoiesis.store.unit import Unit

__all__ = [
    "EVERY_SCOPE",
    "ROLES",
    "BlobStore",
    "CorruptBlobError",
    "DatabaseUnreachableError",
    "Exclusive",
    "Mode",
    "NotFoundError",
    "NotMigratedError",
    "Role",
    "StaleError",
    "Standing",
    "Store",
    "StoreError",
    "Unit",
    "migrate",
    "provision",
]
