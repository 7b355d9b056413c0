"""Settings from one file, the environment and flags, with the origin of every value.

A section is a frozen msgspec struct with a `prefix`; its fields are the settings. The last of these wins: the default in
code, `autopoiesis.yaml`, `AUTOPOIESIS_<SECTION>_<KEY>` in the environment, a flag of the command line.

    class RouterSettings(Section, frozen=True, kw_only=True):
        prefix = "router"
        port: int = 8000

    settings = Settings.load(RouterSettings)
    settings[RouterSettings].port
"""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from autopoiesis.contracts.slo import STANDARD, Objectives, SloClass
from autopoiesis.runtime.errors import OperatorError

FILE = "autopoiesis.yaml"
ENVIRONMENT = "AUTOPOIESIS_"
CONFIG_VARIABLE = "AUTOPOIESIS_CONFIG"
"""Names the configuration file; without it `autopoiesis.yaml` in the working directory, if there is one."""

MASK = "********"


class SettingsError(OperatorError, ValueError):
    """A setting that is unknown or has a value it cannot have; the message names it, its origin and what would be right."""


class Secret(str):
    """Text that is never shown: passwords, tokens, URLs that hold them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'" if self else "''"


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all sections. `prefix` is the key in the file, empty for settings at the top level."""

    prefix: ClassVar[str] = ""


S = TypeVar("S", bound=Section)
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
"""A TCP port; 0 takes a free one."""


class General(Section, frozen=True, kw_only=True):
    scope: str = "local/*"
    """What the policies govern: `<cluster>/<model>`, `*` for every model."""
    mode: Literal["off", "advise", "auto"] = "advise"
    """How far the loop goes by itself: nothing, everything but activation, or all of it."""
    installation_key: Secret = Secret("autopoiesis")
    """Keys the hashes of prompts and of client identities, so that they mean nothing elsewhere."""

    def __post_init__(self) -> None:
        cluster, _, model = self.scope.partition("/")
        if not (cluster and model):
            raise ValueError(f"scope is {self.scope!r}; write <cluster>/<model>, such as local/*")


class BusSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "bus"
    url: str = ""
    """nats://host:port, several separated by commas; empty where `autopoiesis up` embeds one."""
    user: str = ""
    password: Secret = Secret()
    credentials: str = ""
    """Path of a NATS .creds or nkey seed file, instead of user and password."""


class DatabaseSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "database"
    url: Secret = Secret()
    """postgresql://role:password@host:port/name of this service's role; empty where `autopoiesis up` embeds one."""


class BlobSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "blobs"
    dir: str = "blobs"
    """Directory of open snapshots, shared by observer, synthesizer and evaluator."""


class TelemetrySettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "telemetry"
    otlp_endpoint: str = ""
    """http://host:4318 of an OpenTelemetry collector; empty exports nothing."""
    logs: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class SloSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "slo"
    classes: dict[str, SloClass] = msgspec.field(default_factory=lambda: dict(STANDARD.classes))
    default: str = STANDARD.default

    def __post_init__(self) -> None:
        for name, item in self.objectives.classes.items():
            for field in ("ttft_s", "tpot_s"):
                seconds = getattr(item, field)
                if seconds is not None and seconds <= 0:
                    raise ValueError(
                        f"classes.{name}.{field} is {seconds}; write seconds above 0, or leave it out"
                    )

    @property
    def objectives(self) -> Objectives:
        return Objectives(classes=self.classes, default=self.default)


COMMON: tuple[type[Section], ...] = (
    General,
    BusSettings,
    DatabaseSettings,
    BlobSettings,
    TelemetrySettings,
    SloSettings,
)
SERVICE_SECTIONS = (
    "router",
    "planner",
    "worker",
    "vllm",
    "up",
    "observer",
    "synthesizer",
    "evaluator",
    "llm",
    "database_passwords",
)
"""Sections of single services: known to the file though not to every process that reads it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value and where it came from: `default`, `file:line`, `env NAME` or `flag`."""

    key: str
    value: Any
    origin: str

    @property
    def shown(self) -> str:
        if isinstance(self.value, Secret):
            return MASK if self.value else ""
        return msgspec.json.encode(self.value).decode()


class Settings:
    """Every section that a process asked for, resolved."""

    def __init__(
        self,
        sections: Mapping[type[Section], Section],
        settings: Iterable[Setting],
        file: Path | None = None,
    ) -> None:
        self.file = file
        """The configuration file that was read; None without one."""
        self._sections = dict(sections)
        self._settings = {setting.key: setting for setting in settings}

    @classmethod
    def load(
        cls,
        *sections: type[Section],
        config: Path | None = None,
        env: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> "Settings":
        """Resolve the common sections and `sections`.

        `config` names the file (default: $AUTOPOIESIS_CONFIG, else ./autopoiesis.yaml where it exists); `env` stands in for
        the environment; `flags` maps dotted keys to values. Raises SettingsError naming key, origin and what would be right.
        """
        env = os.environ if env is None else env
        wanted = tuple(dict.fromkeys((*COMMON, *sections)))
        document = _document(config, env)
        _refuse_unknown(document, wanted)
        flags = dict(flags or {})
        resolved: dict[type[Section], Section] = {}
        settings: list[Setting] = []
        for section in wanted:
            found = list(_resolve(section, document, env, flags))
            settings += found
            values = {setting.key.rpartition(".")[2]: setting.value for setting in found}
            resolved[section] = _build(section, values)
        keys = [setting.key for setting in settings]
        for flag in flags:
            raise SettingsError(f"unknown setting {flag!r}{_nearest(flag, keys)}")
        _refuse_misspelt(env, wanted, keys)
        return cls(resolved, settings, document.path)

    @classmethod
    def load_or_exit(cls, *sections: type[Section], arguments: Sequence[str] | None = None) -> "Settings":
        """`load` for a service's `__main__`: flags ``--config FILE`` and ``--<section>.<key>=VALUE``.

        A SettingsError is printed, and the process exits with code 2.
        """
        try:
            config, flags = _flags(sys.argv[1:] if arguments is None else arguments)
            return cls.load(*sections, config=config, flags=flags)
        except SettingsError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(2)

    def __getitem__(self, section: type[S]) -> S:
        value = self._sections[section]
        assert isinstance(value, section)
        return value

    def __iter__(self) -> Iterator[Setting]:
        return iter(self._settings.values())

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from."""
        return self._settings[key].origin


def _flags(arguments: Sequence[str]) -> tuple[Path | None, dict[str, str]]:
    flags: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            raise SettingsError(
                f"unexpected argument {argument!r}: flags are --config FILE and --<section>.<key>=VALUE"
            )
        if not equals:
            value = next(rest, "")
        flags[name.removeprefix("--")] = value
    config = flags.pop("config", None)
    return (Path(config) if config else None), flags


def _refuse_misspelt(env: Mapping[str, str], sections: Iterable[type[Section]], keys: Iterable[str]) -> None:
    """A variable of one of our sections that nearly names a setting is a slip; others may be for another process."""
    known = {ENVIRONMENT + key.replace(".", "_").upper(): key for key in keys}
    prefixes = tuple(f"{ENVIRONMENT}{section.prefix.upper()}_" for section in sections if section.prefix)
    for name in env:
        if name.startswith(prefixes) and name not in known:
            near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.85)
            if near:
                raise SettingsError(f"environment variable {name} names no setting; did you mean {near[0]}?")


class _Node:
    """A YAML value and the line it stands on."""

    def __init__(self, value: Any, line: int) -> None:
        self.value = value
        self.line = line


class _Document:
    def __init__(self, path: Path | None, tree: dict[str, _Node]) -> None:
        self.path = path
        self.tree = tree

    def where(self, line: int) -> str:
        return f"{self.path}:{line}"


def _document(config: Path | None, env: Mapping[str, str]) -> _Document:
    named = config or (Path(env[CONFIG_VARIABLE]) if env.get(CONFIG_VARIABLE) else None)
    path = named or Path(FILE)
    if not path.exists():
        if named is not None:
            raise SettingsError(f"configuration file {path} does not exist")
        return _Document(None, {})
    try:
        root = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if root is None:
        return _Document(path, {})
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{path}: expected sections (key: value), found something else")
    return _Document(path, _mapping(root))


def _mapping(node: yaml.MappingNode) -> dict[str, _Node]:
    found: dict[str, _Node] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in found:
            raise SettingsError(
                f"line {line}: {key.value} is given twice, first on line {found[key.value].line}"
            )
        found[key.value] = _Node(value, line)
    return found


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _written(node: yaml.Node, kind: Any) -> Any:
    """The value of a node; words stay words, for YAML takes `off` and `on` for truth values."""
    if get_origin(kind) is Literal and isinstance(node, yaml.ScalarNode):
        return node.value
    return _plain(node)


def _refuse_unknown(document: _Document, sections: tuple[type[Section], ...]) -> None:
    top = {field.name for field in msgspec.structs.fields(General)}
    known = {section.prefix: section for section in sections if section.prefix}
    for name, node in document.tree.items():
        if name in known:
            if not isinstance(node.value, yaml.MappingNode):
                raise SettingsError(
                    f"{document.where(node.line)}: {name} is a section: expected key: value lines below it"
                )
            fields = [field.name for field in msgspec.structs.fields(known[name])]
            for key, inner in _mapping(node.value).items():
                if key not in fields:
                    raise SettingsError(
                        f"{document.where(inner.line)}: unknown setting {name}.{key}{_nearest(key, fields)}"
                    )
        elif name not in top and name not in SERVICE_SECTIONS:
            options = [*top, *known, *SERVICE_SECTIONS]
            raise SettingsError(
                f"{document.where(node.line)}: unknown section or setting {name!r}{_nearest(name, options)}"
            )


def _nearest(name: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(options), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _resolve(
    section: type[Section], document: _Document, env: Mapping[str, str], flags: dict[str, Any]
) -> Iterator[Setting]:
    tree = document.tree
    if section.prefix:
        node = tree.get(section.prefix)
        tree = _mapping(node.value) if node is not None and isinstance(node.value, yaml.MappingNode) else {}
    for field in msgspec.structs.fields(section):
        key = f"{section.prefix}.{field.name}" if section.prefix else field.name
        variable = ENVIRONMENT + key.replace(".", "_").upper()
        if key in flags:
            yield _convert(key, flags.pop(key), field.type, "flag")
        elif variable in env:
            yield _convert(key, _parse(env[variable], field.type), field.type, f"env {variable}")
        elif field.name in tree:
            node = tree[field.name]
            yield _convert(key, _written(node.value, field.type), field.type, document.where(node.line))
        else:
            if field.required:
                raise SettingsError(
                    f"{key} is required: set {key} in {FILE}, or {variable} in the environment"
                )
            yield Setting(key, _default(field), "default")


def _parse(text: str, kind: Any) -> Any:
    if kind in (str, Secret) or get_origin(kind) is Literal:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _convert(key: str, value: Any, kind: Any, origin: str) -> Setting:
    try:
        converted = msgspec.convert(value, kind, strict=False, dec_hook=_secret)
    except msgspec.ValidationError as error:
        shown = MASK if kind is Secret else repr(value)
        choices = f"; one of {', '.join(map(str, get_args(kind)))}" if get_origin(kind) is Literal else ""
        raise SettingsError(f"{key} = {shown} ({origin}): {error}{choices}") from error
    if isinstance(value, Mapping | list):
        _refuse_unknown_inside(value, msgspec.to_builtins(converted), key, origin)
    return Setting(key, converted, origin)


def _refuse_unknown_inside(given: Any, kept: Any, key: str, origin: str) -> None:
    """Raises SettingsError for a key inside a value that the value's type does not have."""
    if isinstance(given, Mapping) and isinstance(kept, Mapping):
        for name, value in given.items():
            if str(name) not in kept:
                raise SettingsError(f"{origin}: unknown setting {key}.{name}{_nearest(str(name), kept)}")
            _refuse_unknown_inside(value, kept[str(name)], f"{key}.{name}", origin)
    elif isinstance(given, list) and isinstance(kept, list | tuple):
        for number, (value, its) in enumerate(zip(given, kept, strict=False)):
            _refuse_unknown_inside(value, its, f"{key}[{number}]", origin)


def _secret(kind: Any, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError(f"expected text, got {type(value).__name__}")


def _build(section: type[S], values: Mapping[str, Any]) -> S:
    try:
        return section(**values)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"section {section.prefix or 'general'}: {error}") from error
