"""The jail against jobs that attack it: real processes, real confinement."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autopoiesis.policy.jail import Jail, JailCrash, JailError, JailMemory, JailTimeout, Job, Limits

JOBS = "jail_jobs"


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("SECRET_TOKEN", "not for candidates")
        with Jail([JOBS, "resource"], workers=2) as running:
            yield running


def job(name: str, payload: bytes = b"", **limits: float) -> Job:
    return Job(f"{JOBS}:{name}", payload, Limits(**limits) if limits else None)  # type: ignore[arg-type]


def test_result_is_what_the_function_returned(jail: Jail) -> None:
    payload = bytes(range(256)) * 5000
    assert jail.run(job("echo", payload)) == payload


def test_kernel_confinement_is_in_force_or_said_to_be_missing(jail: Jail) -> None:
    stated = " ".join(jail.isolation)
    succeeded = json.loads(jail.run(job("attempt")))
    if "seccomp" in stated:
        assert succeeded == []
    else:
        pytest.skip(f"this kernel offers only: {stated}")


def test_threads_are_possible_where_asked_for_but_processes_are_not(jail: Jail) -> None:
    assert jail.run(job("start_thread", threads=True)) == b"done"
    if "seccomp" in " ".join(jail.isolation):
        allowed = json.loads(jail.run(job("attempt", threads=True)))
        assert allowed == ["start a thread"]


def test_exception_comes_back_as_text(jail: Jail) -> None:
    with pytest.raises(JailError, match="ValueError: told so") as caught:
        jail.run(job("raise_value_error", b"told so"))
    assert "raise_value_error" in caught.value.detail


def test_endless_loop_is_killed_by_the_wall_clock(jail: Jail) -> None:
    with pytest.raises(JailTimeout, match=r"0\.2 s"):
        jail.run(job("spin", wall_s=0.2))


def test_endless_loop_is_killed_by_processor_time(jail: Jail) -> None:
    with pytest.raises(JailTimeout, match="processor time"):
        jail.run(job("spin", cpu_s=1))


def test_memory_bomb_is_stopped(jail: Jail) -> None:
    with pytest.raises(JailMemory):
        jail.run(job("devour", memory_bytes=128 << 20))


def test_crash_names_its_signal(jail: Jail) -> None:
    with pytest.raises(JailCrash) as caught:
        jail.run(job("crash"))
    assert caught.value.signal == signal.SIGSEGV


def test_result_has_a_size_limit(jail: Jail) -> None:
    assert len(jail.run(job("answer_of", b"4096", result_bytes=4096))) == 4096
    with pytest.raises(JailError, match="more than 4096 bytes"):
        jail.run(job("answer_of", b"4097", result_bytes=4096))
    with pytest.raises(JailError, match="more than 4096 bytes"):
        jail.run(job("answer_of", b"9999999", result_bytes=4096))


def test_only_bytes_come_back(jail: Jail) -> None:
    with pytest.raises(JailError, match="returns bytes, not str"):
        jail.run(job("answer_text"))


@pytest.mark.parametrize("name", ["os:system", "jail_jobs:no_such_function"])
def test_unknown_functions_are_refused(jail: Jail, name: str) -> None:
    with pytest.raises(JailError):
        jail.run(Job(name, b"true"))


def test_module_that_was_not_imported_at_start_is_refused(jail: Jail) -> None:
    with pytest.raises(JailError, match="was not imported when the jail started"):
        jail.run(Job("this:s"))


def test_job_sees_no_secret_and_no_open_file_but_its_result(jail: Jail) -> None:
    assert "SECRET_TOKEN" not in json.loads(jail.run(job("environment")))
    assert len(json.loads(jail.run(job("open_files")))) == 4


def test_nothing_is_left_behind_for_the_next_job(jail: Jail) -> None:
    assert [jail.run(job("remember")) for _ in range(3)] == [b"", b"", b""]


def test_preloaded_data_is_sent_once_and_seen_by_every_job(jail: Jail) -> None:
    jail.preload("snapshot", bytes(3_000_000))
    jail.preload("parsed", b"abc", loader=f"{JOBS}:doubled")
    assert jail.run(job("length_of_preloaded", b"snapshot")) == b"3000000"
    assert jail.run(job("length_of_preloaded", b"parsed")) == b"6"
    jail.forget("snapshot")
    with pytest.raises(JailError, match="nothing preloaded under 'snapshot'"):
        jail.run(job("length_of_preloaded", b"snapshot"))


def test_loader_that_raises_is_reported(jail: Jail) -> None:
    with pytest.raises(JailError, match="ValueError: bad data"):
        jail.preload("broken", b"bad data", loader=f"{JOBS}:raise_value_error")
    jail.forget("broken")


async def test_many_jobs_can_be_awaited_at_once(jail: Jail) -> None:
    payloads = [str(number).encode() for number in range(40)]
    results = await asyncio.gather(
        *(asyncio.wrap_future(jail.submit(job("echo", payload))) for payload in payloads)
    )
    assert results == payloads


def test_module_that_does_not_import_is_named() -> None:
    with pytest.raises(JailError, match="No module named 'no_such_module'"):
        Jail(["no_such_module"]).start()


def test_jail_survives_the_death_of_its_zygote() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        with Jail([JOBS], workers=1) as jail:
            jail.preload("kept", b"12345")
            running = jail.submit(job("spin"))
            assert jail._process is not None
            first = jail._process.pid
            os.kill(first, signal.SIGKILL)
            with pytest.raises(JailCrash):
                running.result(timeout=30)
            assert jail.run(job("length_of_preloaded", b"kept")) == b"5"
            assert jail._process.pid != first


def test_closing_fails_what_still_runs_and_ends_the_zygote() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        jail = Jail([JOBS], workers=1)
        running, queued = jail.submit(job("spin")), jail.submit(job("echo"))
        process = jail._process
        assert process is not None
        jail.close()
        assert process.returncode == 0
        for future in (running, queued):
            with pytest.raises(JailCrash, match="closed"):
                future.result(timeout=30)


def test_nothing_survives_a_parent_that_is_killed() -> None:
    program = (
        "import sys, pathlib\n"
        "from autopoiesis.policy.jail import Jail, Job\n"
        f"jail = Jail(['{JOBS}'], workers=1)\n"
        f"jail.run(Job('{JOBS}:echo'))\n"
        f"jail.submit(Job('{JOBS}:spin'))\n"
        "zygote = jail._process.pid\n"
        "children = pathlib.Path(f'/proc/{zygote}/task/{zygote}/children')\n"
        "while not children.read_text().split():\n    pass\n"
        "print(zygote, children.read_text(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        started = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(started) == 2
        parent.kill()
        deadline = time.monotonic() + 30
        while any(_running(pid) for pid in started) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(_running(pid) for pid in started)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
