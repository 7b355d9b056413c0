"""What `autopoiesis whatif` makes of its arguments."""

import json
from pathlib import Path

import pytest

from autopoiesis.cli.output import CommandError
from autopoiesis.cli.whatif import asked
from autopoiesis.cli.whatif.tables import number
from autopoiesis.policy import library
from autopoiesis.simulator import SLO, Fleet


def test_policies_are_shipped_ones_then_those_given(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(library.source("random"))
    assert list(asked.policies([], "all")) == list(library.names("dispatch", every=True))
    assert list(asked.policies([str(mine), "round_robin"], "none")) == ["mine", "round_robin"]
    namesake = tmp_path / "random.py"
    namesake.write_text(library.source("round_robin"))
    both = asked.policies([str(namesake)], "rivals")
    assert both["random"] == library.source("random")
    assert both[str(namesake)] == library.source("round_robin")


def test_a_bad_policy_is_told_with_its_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("API = 1\nimport os\n")
    with pytest.raises(CommandError, match=r"(?s)--policy .*bad\.py: .*import"):
        asked.policies([str(bad)], "none")
    with pytest.raises(CommandError, match=r"--policy nowhere\.py: No such file.*round_robin"):
        asked.policies(["nowhere.py"], "none")
    with pytest.raises(CommandError, match="name some with --policy"):
        asked.policies([], "none")


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], None),
        (["ttft=2,tpot=100ms"], SLO(ttft_s=2.0, tpot_s=0.1)),
        (["tpot = 0.05 s"], SLO(tpot_s=0.05)),
        (["chat:ttft=500ms", "batch:ttft=8,priority=1"], {"chat": SLO(ttft_s=0.5), "batch": SLO(ttft_s=8.0, priority=1)}),
    ],
)  # fmt: skip
def test_objectives(texts: list[str], found: object) -> None:
    assert asked.goals(texts) == found


@pytest.mark.parametrize(
    "text", ["", "2", "ttft", "ttft=fast", "ttft=2;tpot=1", "chat:", "ttft=2,ttfb=1", "ttft=1.2.3"]
)
def test_objectives_that_are_none(text: str) -> None:
    with pytest.raises(CommandError, match="must be like ttft=2,tpot=100ms"):
        asked.goals([text])


def test_two_unnamed_objectives_are_ambiguous() -> None:
    with pytest.raises(CommandError, match="name the class"):
        asked.goals(["ttft=2", "chat:ttft=1"])


def test_loads_come_apart_or_with_commas() -> None:
    assert asked.loads(["1.2,0.8", "1"]) == (0.8, 1.0, 1.2)
    with pytest.raises(CommandError, match="--load 0: must be above 0"):
        asked.loads(["0", "1"])
    with pytest.raises(CommandError, match="could not convert"):
        asked.loads(["full"])


def test_fleets_stay_or_come_and_go(tmp_path: Path) -> None:
    spot = tmp_path / "spot.csv"
    spot.write_text("0,add,a\n0,add,b\n60000,remove,a\n90000,add,c\n")

    def fleet(spec: str | None = None, moving: str | None = None, file: Path | None = None) -> Fleet:
        return asked.fleet(spec, moving, file, notice_s=30.0, span_s=600.0, model="Llama-3.1-8B")

    assert len(fleet("2xH100").replicas) == 2
    mixed = fleet("1xH100", "2xL4", spot)
    assert [(r.gpu, r.preemptible) for r in mixed.replicas] == [("H100", False), ("L4", True), ("L4", True)]
    first = mixed.changes[0]
    assert (first.at, first.kind, first.replica) == (30.0, "notice", "a")
    for arguments, why in (
        ((None, None, None), "--fleet is needed"),
        (("1xH100", "2xL4", None), "--spot and --membership belong together"),
        (("1xH100", "1xL4 + 1xH100", spot), "one kind of replica"),
        (("1xB9000", None, None), "B9000"),
        (("1xH100", "2xL4", tmp_path / "none.csv"), r"none\.csv: no such file"),
    ):
        with pytest.raises(CommandError, match=why):
            fleet(*arguments)


def test_a_model_nobody_knows_comes_as_its_configuration(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_hidden_layers": 20,
        "intermediate_size": 8192,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**shape, "vocab_size": 32_000, "model_type": "mine"}))

    def fleet(model: str) -> Fleet:
        return asked.fleet("2xL4", None, None, notice_s=0.0, span_s=600.0, model=model)

    assert [replica.model for replica in fleet(str(file)).replicas] == ["mine", "mine"]
    with pytest.raises(CommandError, match="unknown model 'Foo-7B'"):
        fleet("Foo-7B")
    file.write_text(json.dumps(shape))
    with pytest.raises(CommandError, match="lacks 'vocab_size'"):
        fleet(str(file))
    with pytest.raises(CommandError, match=r"none\.json: not a config\.json"):
        fleet("none.json")


def test_numbers_have_three_digits() -> None:
    shown = [number(value) for value in (0.0, 0.12345, 6.4, 99.96, 1234.5, float("nan"))]
    assert shown == ["0", "0.123", "6.40", "100", "1234", "-"]
