"""Classes, objectives and pseudonyms from headers."""

import pytest

from autopoiesis.contracts.slo import STANDARD
from autopoiesis.router.errors import BadRequestError
from autopoiesis.router.identity import Identities

identities = Identities(STANDARD, b"key")


def test_default_class() -> None:
    identity = identities.read([])
    assert (identity.klass, identity.priority) == ("interactive", 0)
    assert (identity.ttft_slo_s, identity.tpot_slo_s) == (1.0, 0.06)
    assert (identity.session, identity.tenant, identity.workflow) == ("", "", "")


@pytest.mark.parametrize("header", [b"x-slo-class", b"x-gateway-inference-objective"])
def test_named_class(header: bytes) -> None:
    identity = identities.read([(header, b"batch")])
    assert (identity.klass, identity.priority, identity.ttft_slo_s) == ("batch", 1, 8.0)


def test_unknown_class_is_the_default() -> None:
    assert identities.read([(b"x-slo-class", b"vip")]).klass == "interactive"


def test_objectives_of_one_request() -> None:
    identity = identities.read([(b"x-slo-ttft-ms", b"250"), (b"x-slo-tpot-ms", b"12.5")])
    assert (identity.ttft_slo_s, identity.tpot_slo_s) == (0.25, 0.0125)


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan", b"inf", b"fast", b"", b"\xff"])
def test_absurd_objectives_are_refused(value: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        identities.read([(b"x-slo-ttft-ms", value)])
    assert caught.value.param == "x-slo-ttft-ms"


def test_names_do_not_leave() -> None:
    headers = [
        (b"x-session-id", b"alice-42"),
        (b"authorization", b"Bearer sk-secret"),
        (b"x-workflow-id", b"w"),
    ]
    identity = identities.read(headers)
    shown = repr(identity)
    assert "alice" not in shown
    assert "secret" not in shown
    assert identity.session == identities.read(headers).session
    assert identity.session != Identities(STANDARD, b"other").read(headers).session


def test_tenant_header_before_key() -> None:
    named = identities.read([(b"authorization", b"Bearer k"), (b"x-tenant-id", b"acme")])
    assert named.tenant == identities.pseudonym(b"acme")
    assert identities.read([(b"authorization", b"Bearer k")]).tenant == identities.pseudonym(b"Bearer k")
