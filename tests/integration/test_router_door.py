"""Keys and TLS of a running router."""

import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
import trustme
from router_harness import MODEL, StubWorker, chat, half, running_router, stub_worker

from autopoiesis.router import keys

ADMIN = {"authorization": "Bearer operator"}


@pytest.fixture
async def worker(nats_url: str) -> AsyncIterator[StubWorker]:
    async with stub_worker(nats_url, "gpu/0") as worker:
        yield worker


async def test_keys(nats_url: str, worker: StubWorker, tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    user, secret = keys.create("a user", concurrent=1)
    admin, admin_secret = keys.create("an operator", scopes=("admin",))
    path = tmp_path / "keys.json"
    keys.save(path, (user, admin))
    async with running_router(nats_url, keys=str(path), admin_token="operator") as router:
        await wait_for(router.ready)
        for post, url in ((True, "/v1/chat/completions"), (False, "/v1/models"), (True, "/v1/embeddings")):
            answer = await router.client.post(url, json=chat()) if post else await router.client.get(url)
            assert answer.status_code == 401, url
            assert answer.json()["error"]["code"] == "invalid_api_key"
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key=secret, max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "hello"}]
            await client.chat.completions.create(model=MODEL, messages=messages)
            assert [model.id for model in (await client.models.list()).data] == [MODEL]
            worker.engine = half
            running = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            with pytest.raises(openai.RateLimitError) as limited:
                await client.chat.completions.create(model=MODEL, messages=messages)
            assert "retry-after" in limited.value.response.headers
            await running.close()
            keys.save(path, (msgspec.structs.replace(user, revoked_unix_s=1.0), admin))

            async def revoked() -> bool:
                try:
                    await client.models.list()
                except openai.AuthenticationError:
                    return True
                return False

            await wait_for(revoked)
        for headers, status in (
            ({}, 401),
            ({"authorization": f"Bearer {secret}"}, 401),
            ({"authorization": f"Bearer {admin_secret}"}, 200),
            (ADMIN, 200),
        ):
            answer = await router.client.get("/admin/state", headers=headers)
            assert answer.status_code == status, headers
        assert (await router.client.get("/health")).is_success


async def test_the_tenant_is_the_key_whatever_the_headers_say(
    nats_url: str, worker: StubWorker, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    one, first = keys.create("one")
    two, second = keys.create("two")
    path, record = tmp_path / "keys.json", tmp_path / "record"
    keys.save(path, (one, two))
    async with running_router(nats_url, keys=str(path), admin_token="operator", record=str(record)) as router:

        async def ready() -> bool:
            return (await router.client.get("/ready")).is_success

        await wait_for(ready)
        for key, tenant in ((first, "mine"), (first, "yours"), (second, "mine")):
            headers = {"authorization": f"Bearer {key}", "x-tenant-id": tenant}
            answer = await router.client.post("/v1/chat/completions", json=chat(), headers=headers)
            assert answer.is_success
    lines = [msgspec.json.decode(line) for line in record.read_bytes().splitlines()]
    arrivals = [line["event"] for line in lines if line.get("event", {}).get("type") == "Arrival"]
    tenants = [arrival["tenant"] for arrival in arrivals]
    assert len(tenants) == 3
    assert tenants[0] == tenants[1] != tenants[2]
    assert first not in record.read_text()


async def test_tls(nats_url: str, worker: StubWorker, tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    async with running_router(nats_url, tls_certificate=str(tmp_path / "server.pem")) as router:
        assert router.url.startswith("https://")
        async with httpx.AsyncClient(base_url=router.url, verify=trusted) as client:

            async def ready() -> bool:
                return (await client.get("/ready")).is_success

            await wait_for(ready)
            answer = await client.post("/v1/chat/completions", json=chat(stream=True))
            assert answer.text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await router.client.get("/ready")
