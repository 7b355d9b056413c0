"""The registry is consistent, its tokens are safe, and what is generated from it is fresh."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts import docs
from autopoiesis.contracts.subjects import GENERATE, HEARTBEAT, PROMOTED, REGISTRY, STREAMS, slug

ROOT = Path(__file__).parents[2]


def test_no_two_subjects_overlap() -> None:
    def overlap(a: list[str], b: list[str]) -> bool:
        return len(a) == len(b) and all(x == y or "*" in (x, y) for x, y in zip(a, b, strict=True))

    patterns = [subject.wildcard().split(".") for subject in REGISTRY]
    clashes = [(a, b) for i, a in enumerate(patterns) for b in patterns[i + 1 :] if overlap(a, b)]
    assert clashes == []


def test_kept_subjects_have_a_stream_and_core_ones_none() -> None:
    for subject in REGISTRY:
        assert (subject.stream is None) == (subject.delivery == "core"), subject.pattern
        if subject.stream is not None:
            assert (subject.delivery == "work") == (subject.stream.retention == "workqueue")
            assert (subject.delivery == "last") == (subject.stream.per_subject == 1)
            assert subject.stream in STREAMS


def test_concrete_names() -> None:
    assert PROMOTED.at(scope="local", kind="dispatch") == "policy.promoted.local.dispatch"
    assert HEARTBEAT.wildcard() == "fleet.heartbeat.*.*"
    assert HEARTBEAT.wildcard(node="n0") == "fleet.heartbeat.n0.*"


def test_a_missing_or_unsafe_token_is_named() -> None:
    with pytest.raises(ValueError, match=r"needs scope, kind; got scope"):
        PROMOTED.at(scope="local")
    with pytest.raises(ValueError, match=r"use slug\('a\.b'\)"):
        GENERATE.at(replica="a.b")


@given(st.text(min_size=1, max_size=60))
def test_every_name_has_a_token(name: str) -> None:
    assert GENERATE.at(replica=slug(name)) == f"infer.{slug(name)}"


@given(st.lists(st.text(alphabet="aB1./-_ é", min_size=1, max_size=12), min_size=2, max_size=2, unique=True))
def test_distinct_names_have_distinct_tokens(names: list[str]) -> None:
    assert slug(names[0]) != slug(names[1])


def test_generated_pages_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert docs.main(["--check"]) == 0
