"""Processes under the supervisor: none outlives it, whatever ends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import living

from autopoiesis.runtime import embedded
from autopoiesis.runtime.embedded.child import Ready

PARENT = """
import sys, time
from pathlib import Path
from autopoiesis.runtime import embedded
data = Path(sys.argv[1])
supervisor = embedded.Supervisor(data)
embedded.start_nats(supervisor, data / "nats")
embedded.start_postgres(supervisor, data / "postgres", settings={"fsync": "off"})
supervisor.start("stubborn", [sys.executable, sys.argv[2]], ready="notify", grace=0.2)
print("up", flush=True)
time.sleep(600)
"""

STUBBORN = """
import os, signal, time
from autopoiesis.runtime.lifecycle import notify_ready
if os.fork() == 0:
    os.setsid()  # in a process group of its own, as a database's workers are
signal.signal(signal.SIGTERM, signal.SIG_IGN)
notify_ready()
time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "data"), str(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_orphan_is_left(
    parent: subprocess.Popen[str], number: int, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    family = psutil.Process(parent.pid).children(recursive=True)
    names = {process.name() for process in family}
    assert {"nats-server", "postgres"} <= names
    guardians = [process for process in family if "guardian.py" in " ".join(process.cmdline())]
    assert len(guardians) == 3
    assert (
        len(
            [
                process
                for process in family
                if process not in guardians and "stubborn.py" in process.cmdline()[-1]
            ]
        )
        == 2
    )
    assert len([process for process in family if process.name() == "postgres"]) > 3

    parent.send_signal(number)
    assert parent.wait(15) != 0
    wait_until(lambda: not living(family), timeout=15)
    with embedded.Supervisor(tmp_path / "data"):  # and the directory is free again
        pass


def test_a_killed_guardian_takes_its_child_along(
    own_supervisor: embedded.Supervisor, wait_until: Callable[..., None]
) -> None:
    child = own_supervisor.start("sleeper", ["sleep", "600"])
    wait_until(lambda: child.pid is not None)
    assert child.pid is not None
    sleeper = psutil.Process(child.pid)
    guardian = sleeper.parent()
    assert guardian is not None
    guardian.kill()
    wait_until(lambda: not living([sleeper]))
    assert child.wait(5) == -signal.SIGKILL


def test_the_directory_is_locked_and_the_holder_named(own_supervisor: embedded.Supervisor) -> None:
    with pytest.raises(embedded.DataDirectoryInUseError, match=f"in use by process {os.getpid()}: stop"):
        embedded.Supervisor(own_supervisor.data_dir)


def test_a_new_supervisor_waits_for_the_children_of_a_killed_one(
    parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    family = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    with embedded.Supervisor(tmp_path / "data"):
        assert not [process for process in living(family) if "guardian.py" not in " ".join(process.cmdline())]


def test_a_child_is_restarted_until_told_to_stop(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    exits: list[int] = []
    with embedded.Supervisor(tmp_path, on_exit=lambda child, code: exits.append(code)) as supervisor:
        child = supervisor.start("sleeper", ["sleep", "600"], restart=True)
        for round_ in range(2):
            wait_until(lambda: child.pid is not None and child.restarts == round_)  # noqa: B023
            child.kill()
            wait_until(lambda: len(exits) == round_ + 1)  # noqa: B023
        wait_until(lambda: child.pid is not None and child.restarts == 2)
        assert child.stop() == -signal.SIGTERM
    assert exits == [-signal.SIGKILL, -signal.SIGKILL]


@pytest.mark.parametrize("ready", ["notify", lambda: False])
def test_a_child_that_never_was_ready_is_not_restarted(
    own_supervisor: embedded.Supervisor, ready: Ready
) -> None:
    script = "echo started; echo no such setting; exit 2"
    with pytest.raises(embedded.ChildFailedError, match=r"(?s)ended with code 2.*no such setting"):
        own_supervisor.start("refused", ["sh", "-c", script], ready=ready, restart=True)
    child = own_supervisor.children["refused"]
    assert child.restarts == 0
    assert child.log.read_text().count("started") == 1


def test_a_stopped_process_still_stops(
    own_supervisor: embedded.Supervisor, wait_until: Callable[..., None]
) -> None:
    child = own_supervisor.start("sleeper", ["sleep", "600"])
    wait_until(lambda: child.pid is not None)
    child.signal(signal.SIGSTOP)
    assert child.stop() == -signal.SIGTERM


def test_layers_stop_from_the_top(tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = f"trap 'echo $0 >> {order}; exit 0' TERM; echo >&$AUTOPOIESIS_READY_FD; sleep 600 & wait"
    with embedded.Supervisor(tmp_path / "data") as supervisor:
        for name, layer in (("server", 0), ("gateway", 2), ("service", 1)):
            supervisor.start(name, ["bash", "-c", script, name], layer=layer, ready="notify")
    assert order.read_text().split() == ["gateway", "service", "server"]


def test_a_program_that_does_not_exist_is_named(own_supervisor: embedded.Supervisor) -> None:
    with pytest.raises(embedded.ChildFailedError, match="cannot run /no/such/program"):
        own_supervisor.start("ghost", ["/no/such/program"], ready="notify")


def test_an_early_end_shows_the_log(own_supervisor: embedded.Supervisor) -> None:
    with pytest.raises(embedded.ChildFailedError, match=r"brittle ended with code 3 .*\n.*port is taken"):
        own_supervisor.start("brittle", ["bash", "-c", "echo port is taken >&2; exit 3"], ready="notify")


def test_an_early_end_shows_nothing_of_an_earlier_start(own_supervisor: embedded.Supervisor) -> None:
    for said in ("the first", "the second"):
        with pytest.raises(embedded.ChildFailedError) as failed:
            own_supervisor.start("brittle", ["bash", "-c", f"echo {said} >&2; exit 3"], ready="notify")
    assert "the second" in str(failed.value)
    assert "the first" not in str(failed.value)


def test_readiness_is_awaited_for_a_bounded_time(own_supervisor: embedded.Supervisor) -> None:
    with pytest.raises(embedded.ChildFailedError, match="slow was not ready after 0 s"):
        own_supervisor.start("slow", ["sleep", "600"], ready="notify", timeout=0.1)
    assert not own_supervisor.children["slow"].alive


def test_a_name_is_used_once(own_supervisor: embedded.Supervisor) -> None:
    own_supervisor.start("sleeper", ["sleep", "600"])
    with pytest.raises(ValueError, match="'sleeper' is already running"):
        own_supervisor.start("sleeper", ["sleep", "600"])


def test_nothing_starts_while_stopping(tmp_path: Path) -> None:
    supervisor = embedded.Supervisor(tmp_path)
    supervisor.stop()
    supervisor.stop()
    with pytest.raises(RuntimeError, match="stopping"):
        supervisor.start("late", ["true"])


def test_a_taken_port_of_nats_is_explained(
    nats_server: embedded.NatsServer, own_supervisor: embedded.Supervisor
) -> None:
    port = int(nats_server.url.rpartition(":")[2])
    with pytest.raises(embedded.ChildFailedError, match="address already in use"):
        embedded.start_nats(own_supervisor, own_supervisor.data_dir / "nats", port=port, restart=False)


def test_additional_nats_configuration_is_used(own_supervisor: embedded.Supervisor) -> None:
    with pytest.raises(embedded.ChildFailedError, match="nonsense"):
        embedded.start_nats(
            own_supervisor,
            own_supervisor.data_dir / "nats",
            config="authorization { nonsense: }",
            restart=False,
        )
