"""Settings: file, environment, flags, and where each value came from."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.runtime.settings import (
    BusSettings,
    DatabaseSettings,
    General,
    Secret,
    Section,
    Settings,
    SettingsError,
    SloSettings,
)


class ShopSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "router"
    port: int = 8000
    ratio: float = 0.5
    name: str = "corner"
    open: bool = True
    shelves: tuple[str, ...] = ()
    kind: Literal["food", "books"] = "food"
    limit: float | None = None
    token: Secret = Secret()


class NeedySettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "worker"
    node: str


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "autopoiesis.yaml"
    path.write_text(
        "scope: demo/m\nrouter:\n  port: 9000\n  shelves: [a, b]\n\n  name: from the file\nbus:\n  url: nats://file\n"
    )
    return path


def load(config: Path | None = None, env: dict[str, str] | None = None, **flags: object) -> Settings:
    named = {key.replace("__", "."): value for key, value in flags.items()}
    return Settings.load(ShopSettings, config=config, env=env or {}, flags=named)


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings[ShopSettings] == ShopSettings()
    assert settings.origin("router.port") == "default"


def test_the_last_of_file_environment_and_flag_wins_and_is_told(file: Path) -> None:
    env = {"AUTOPOIESIS_ROUTER_PORT": "9001", "AUTOPOIESIS_ROUTER_NAME": "from the environment"}
    settings = load(file, env, router__port="9002")
    shop = settings[ShopSettings]
    assert (shop.port, shop.name, shop.shelves) == (9002, "from the environment", ("a", "b"))
    assert settings.origin("router.port") == "flag"
    assert settings.origin("router.name") == "env AUTOPOIESIS_ROUTER_NAME"
    assert settings.origin("router.shelves") == f"{file}:4"
    assert settings.origin("bus.url") == f"{file}:8"
    assert settings.origin("scope") == f"{file}:1"
    assert settings[General].scope == "demo/m"


def test_the_environment_names_the_file(file: Path) -> None:
    assert load(env={"AUTOPOIESIS_CONFIG": str(file)})[BusSettings].url == "nats://file"


def test_the_file_of_the_working_directory_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load()[ShopSettings].port == 9000


def test_values_of_the_environment_take_their_type() -> None:
    env = {
        "AUTOPOIESIS_ROUTER_SHELVES": '["x", "y"]',
        "AUTOPOIESIS_ROUTER_OPEN": "false",
        "AUTOPOIESIS_ROUTER_RATIO": "1",
        "AUTOPOIESIS_ROUTER_NAME": "12",
        "AUTOPOIESIS_ROUTER_LIMIT": "2.5",
    }
    shop = load(env=env)[ShopSettings]
    assert (shop.shelves, shop.open, shop.ratio, shop.name, shop.limit) == (("x", "y"), False, 1.0, "12", 2.5)


@given(port=st.integers(0, 65535), name=st.text(st.characters(categories=["L", "N", "P"]), min_size=1))
def test_any_value_survives_the_environment(port: int, name: str) -> None:
    shop = load(env={"AUTOPOIESIS_ROUTER_PORT": str(port), "AUTOPOIESIS_ROUTER_NAME": name})[ShopSettings]
    assert (shop.port, shop.name) == (port, name)


def test_secrets_are_masked_wherever_they_are_shown() -> None:
    env = {"AUTOPOIESIS_DATABASE_URL": "postgresql://u:hidden@h/d", "AUTOPOIESIS_ROUTER_TOKEN": "hidden"}
    settings = load(env=env)
    assert settings[DatabaseSettings].url == "postgresql://u:hidden@h/d"
    assert "hidden" not in " ".join(setting.shown for setting in settings)
    assert "hidden" not in repr(settings[ShopSettings])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("router:\n  prot: 1\n", r":2: unknown setting router\.prot; did you mean 'port'\?"),
        ("ruter:\n  port: 1\n", r":1: unknown section or setting 'ruter'; did you mean 'router'\?"),
        ("router:\n  port: eight\n", r"router\.port = 'eight' \(.*:2\): Expected `int`"),
        ("router:\n  kind: toys\n", r"router\.kind = 'toys' .*; one of food, books"),
        ("router: 5\n", r":1: router is a section"),
        ("- a\n", r"expected sections"),
        ("a: [\n", r"is not valid YAML"),
        ("router:\n  port: 1\n  port: 2\n", r"line 3: port is given twice, first on line 2"),
        (
            "slo: {classes: {interactive: {ttft: 1}}}\n",
            r":1: unknown setting slo\.classes\.interactive\.ttft; did you mean 'ttft_s'\?",
        ),
        (
            "slo: {classes: {gold: {ttft_s: 1}}}\n",
            r"section slo: default class 'interactive' is not among the classes \(gold\)",
        ),
        (
            "slo: {classes: {interactive: {tpot_s: -1}}}\n",
            r"section slo: classes\.interactive\.tpot_s is -1\.0; write seconds above 0",
        ),
        ("scope: nonsense\n", r"scope is 'nonsense'; write <cluster>/<model>"),
        ("router:\n  token: [a]\n", r"router\.token = \*\*\*\*\*\*\*\* .*expected text"),
    ],
)
def test_errors_name_place_value_and_what_is_right(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load(file)


def test_sections_of_other_services_are_left_alone(file: Path) -> None:
    file.write_text("evaluator:\n  anything: 1\n")
    load(file)


def test_an_empty_file_is_fine(file: Path) -> None:
    file.write_text("# nothing\n")
    assert load(file)[ShopSettings] == ShopSettings()


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml does not exist"):
        load(tmp_path / "nowhere.yaml")


def test_an_unknown_flag_is_named() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting 'router\.prot'; did you mean 'router\.port'"):
        load(router__prot="1")


def test_a_misspelt_variable_is_named_and_a_foreign_one_ignored() -> None:
    with pytest.raises(
        SettingsError, match="AUTOPOIESIS_ROUTER_PROT names no setting; did you mean AUTOPOIESIS_ROUTER_PORT"
    ):
        load(env={"AUTOPOIESIS_ROUTER_PROT": "1"})
    load(env={"AUTOPOIESIS_ROUTER_SOMETHING_QUITE_DIFFERENT": "1", "AUTOPOIESIS_EVALUATOR_SEEDS": "1"})


def test_a_required_setting_says_where_to_set_it() -> None:
    with pytest.raises(SettingsError, match=r"worker\.node is required: .* or AUTOPOIESIS_WORKER_NODE"):
        Settings.load(NeedySettings, env={})
    assert Settings.load(NeedySettings, env={"AUTOPOIESIS_WORKER_NODE": "n"})[NeedySettings].node == "n"


def test_slo_classes_have_defaults() -> None:
    objectives = load()[SloSettings].objectives
    assert objectives.default in objectives.classes


def test_flags_of_a_service(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    settings = Settings.load_or_exit(ShopSettings, arguments=["--router.port=1", "--router.name", "flagged"])
    assert (settings[ShopSettings].port, settings[ShopSettings].name) == (1, "flagged")
    other = file.with_name("other.yaml")
    other.write_text("router: {port: 7}")
    assert Settings.load_or_exit(ShopSettings, arguments=["--config", str(other)])[ShopSettings].port == 7


@pytest.mark.parametrize("argument", ["port", "--router.prot=1"])
def test_a_wrong_flag_ends_a_service_with_a_message(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        Settings.load_or_exit(ShopSettings, arguments=[argument])
    assert ended.value.code == 2
    assert argument.lstrip("-").partition("=")[0] in capsys.readouterr().err


def test_words_that_yaml_takes_for_truth_values_stay_words(tmp_path):
    path = tmp_path / "autopoiesis.yaml"
    path.write_text("mode: off\n")
    assert Settings.load(config=path, env={})[General].mode == "off"
    assert Settings.load(env={"AUTOPOIESIS_MODE": "off"})[General].mode == "off"
