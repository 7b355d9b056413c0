"""The operator's commands against a running installation: what they do, print and answer."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e_world import MODEL, Probe, Traffic, command, promote, state, until

from autopoiesis.cli import app as cli
from autopoiesis.cli.installation import Installation
from autopoiesis.policy import library
from autopoiesis.store import Store, operations

pytestmark = pytest.mark.xdist_group("installation")


async def test_a_promotion_and_its_rollback_disturb_no_request(
    whole: Installation, http: httpx.AsyncClient
) -> None:
    router = whole.running.router
    await promote(whole, http, "round_robin")
    before = (await state(http, router))["policy"]
    async with Traffic(router) as traffic:
        streams = [Probe(http, router, tokens=150) for _ in range(6)]
        await until(lambda: all(stream.began for stream in streams))
        await promote(whole, http, "least_requests")
        promoted = (await state(http, router))["policy"]
        assert promoted["hash"] == promoted["deciding"] == library.load("least_requests").hash
        assert promoted["epoch"] > before["epoch"]
        await traffic.goes_on()
        await asyncio.to_thread(command, "policy", "rollback", "--data", str(whole.data_dir))

        async def back() -> bool:
            now = (await state(http, router))["policy"]
            return bool(now["epoch"] > promoted["epoch"] and now["hash"] == before["hash"])

        await until(back)
        await traffic.goes_on()
        await asyncio.gather(*(stream.task for stream in streams))
    assert [stream.epoch for stream in streams] == [before["epoch"]] * 6
    assert not [stream for stream in streams if not stream.finished]
    assert not traffic.errors()


async def test_pause_and_resume_are_seen_by_everybody(whole: Installation, data_dir: Path) -> None:
    async def overrides() -> dict[str, str]:
        async with await Store.open(whole.running.database, pool_size=1) as store:
            return {control.scope: control.mode for control in await operations.modes(store)}

    await asyncio.to_thread(command, "pause", "--data", str(data_dir))
    assert await overrides() == {"*": "paused"}
    await asyncio.to_thread(command, "resume", "--data", str(data_dir))
    assert await overrides() == {}


def as_json(*arguments: str) -> Any:
    return json.loads(command(*arguments, "--json"))


def test_status(installation: Installation, data_dir: Path) -> None:
    said = as_json("status", "--data", str(data_dir))
    assert said["ready"] == {"ready": True, "missing": []}
    assert said["url"] == installation.running.router
    assert set(said["services"]) >= {"router", "worker-a", "worker-b", "observer", "evaluator"}
    assert {row["gpu"] for row in said["router"]["fleet"]} == {"H100", "L40S"}
    assert said["urls"]["router"] == installation.running.router
    assert set(said["restarts"]) == set(said["services"])
    assert "replicas" in command("status", "--data", str(data_dir))


def test_doctor_finds_nothing_wrong(installation: Installation, data_dir: Path) -> None:
    findings = as_json("doctor", "--data", str(data_dir))
    assert {finding["check"] for finding in findings} >= {"Python", "installation", "NATS", "PostgreSQL"}
    assert [finding for finding in findings if not finding["ok"]] == []


def test_doctor_says_what_is_wrong(
    installation: Installation, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = "http://127.0.0.1:9"
    assert cli.run(["doctor", "--attach", nobody, "--data", str(data_dir), "--json"]) == 1
    (wrong,) = [finding for finding in json.loads(capsys.readouterr().out) if not finding["ok"]]
    assert wrong["check"] == "attached server"
    assert nobody in wrong["found"]
    assert "check the URL" in wrong["fix"]


def test_doctor_asks_every_server_that_is_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "autopoiesis.yaml"
    nobody = "http://127.0.0.1:9"
    file.write_text(
        f"llm: {{base_url: {nobody}/v1, model: m}}\nrouter: {{port: 0, attach: [{nobody}]}}\nworker: {{attach: [{nobody}]}}\n"
    )
    assert cli.run(["doctor", "--config", str(file), "--data", str(tmp_path), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    wrong = [finding["check"] for finding in findings if not finding["ok"]]
    assert wrong == ["attached server", "attached server", "language model"]


async def test_policies_can_be_listed_read_and_compared(whole: Installation, http: httpx.AsyncClient) -> None:
    await promote(whole, http, "least_requests")
    await promote(whole, http, "round_robin")
    data = ("--data", str(whole.data_dir))
    listed = await asyncio.to_thread(as_json, "policy", "list", *data)
    active = [row["hash"] for row in listed["policies"] if row["active"]]
    assert active == [library.load("round_robin").hash]
    assert {row["name"] for row in listed["shipped"]} >= {"round_robin", "slo_triage"}

    before, after = (library.load(name).hash[:16] for name in ("least_requests", "round_robin"))
    shown = await asyncio.to_thread(as_json, "policy", "show", before, *data)
    assert shown["hash"] == library.load("least_requests").hash
    assert "def route(" in shown["source"]
    difference = await asyncio.to_thread(command, "policy", "diff", before, after, *data)
    assert f"--- {before[:12]}" in difference
    assert f"+++ {after[:12]}" in difference


async def test_what_an_operator_changes_is_shown(whole: Installation, http: httpx.AsyncClient) -> None:
    data = ("--data", str(whole.data_dir))
    await promote(whole, http, "least_requests")
    promoted = await asyncio.to_thread(as_json, "policy", "promote", "round_robin", *data)
    shown = await asyncio.to_thread(as_json, "policy", "show", "round_robin", *data)
    assert shown["hash"] == promoted["hash"] == library.load("round_robin").hash
    assert promoted["epoch"] in [place["epoch"] for place in shown["active"]]
    newest, before = (await asyncio.to_thread(as_json, "policy", "history", "--kind", "dispatch", *data))[:2]
    assert (newest["epoch"], newest["replaces"]) == (promoted["epoch"], before["epoch"])
    assert [row["title"] for row in (newest, before)] == ["round_robin", "least_requests"]
    assert (newest["origin"], newest["cause"], newest["evaluation"]) == ("library", "operator: promote", None)
    assert "operator: promote" in await asyncio.to_thread(command, "policy", "history", *data)

    await asyncio.to_thread(command, "pause", *data)
    paused = await asyncio.to_thread(as_json, "status", *data)
    assert paused["mode"]["overrides"] == {"*": "paused"}
    assert "paused for * by hand" in await asyncio.to_thread(command, "status", *data)
    assert await asyncio.to_thread(as_json, "resume", *data) == {"scope": "*", "override": None}


def test_shipped_policies_and_files_are_read_without_anything_running(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(library.source("round_robin").replace("request.arrival", "0.0"))
    data = ("--data", str(tmp_path))
    assert as_json("policy", "show", "round_robin", *data)["hash"] == library.load("round_robin").hash
    difference = as_json("policy", "diff", "round_robin", str(file), *data)["diff"]
    assert "-    return request.arrival" in difference
    assert "+    return 0.0" in difference
    assert cli.run(["policy", "diff", "round_robin", "abcd", *data]) == 2


def test_a_setting_says_where_it_comes_from(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "autopoiesis.yaml"
    file.write_text(f"scope: local/{MODEL}\nrouter:\n  port: 8123\n")
    monkeypatch.setenv("AUTOPOIESIS_ROUTER_POLICY", "slo_triage")
    settings = as_json("config", "show", "--origin", "--config", str(file))
    assert settings["router.port"] == {"value": "8123", "origin": f"{file}:3"}
    assert settings["router.policy"]["origin"] == "env AUTOPOIESIS_ROUTER_POLICY"
    assert settings["worker.seed"]["origin"] == "default"
    lines = command("config", "show", "--origin", "--config", str(file)).splitlines()
    assert lines[1].split() == ["setting", "value", "origin"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("policy", "show", "ffffffffff"), "ffffffffff"),
        (("policy", "promote", "no_such_policy"), "no_such_policy"),
        (("policy", "pin", "no_such_file.py"), "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    installation: Installation,
    data_dir: Path,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run([*arguments, "--data", str(data_dir)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("autopoiesis: ")
    assert said in told
    assert "Traceback" not in told


def test_without_an_installation_commands_say_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["status", "--data", str(tmp_path)]) == 2
    assert "start it with `autopoiesis up`" in capsys.readouterr().err
