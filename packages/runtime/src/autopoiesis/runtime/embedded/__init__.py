"""Real servers and services as supervised child processes of one command.

`Supervisor` starts processes, restarts them when asked, and guarantees that none outlives it, however it dies.
`start_nats` and `start_postgres` run the real servers, from wheels, in a data directory that is found again.
"""

from autopoiesis.runtime.embedded.child import Child, ChildFailedError
from autopoiesis.runtime.embedded.lock import DataDirectoryInUseError
from autopoiesis.runtime.embedded.nats import NatsServer, start_nats
from autopoiesis.runtime.embedded.postgres import PostgresServer, start_postgres
from autopoiesis.runtime.embedded.supervisor import Supervisor, free_port

__all__ = [
    "Child",
    "ChildFailedError",
    "DataDirectoryInUseError",
    "NatsServer",
    "PostgresServer",
    "Supervisor",
    "free_port",
    "start_nats",
    "start_postgres",
]
