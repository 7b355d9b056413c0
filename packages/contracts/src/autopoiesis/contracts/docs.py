"""Generate `docs/subjects.md` and the NATS permissions from the registry.

`python -m autopoiesis.contracts.docs --write` rewrites both from the repository root; `--check` fails if they are stale.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from autopoiesis.contracts.subjects import REGISTRY, ROUTER_INBOX, STREAMS, Service, streams_of

SUBJECTS_PAGE = Path("docs/subjects.md")
PERMISSIONS = Path("infra/nats/permissions.conf")


def page() -> str:
    lines = [
        "# Subjects",
        "",
        "Generated from `autopoiesis.contracts.subjects` by `make docs`; do not edit. Isolation between installations is a NATS",
        "account. Tokens are `[A-Za-z0-9_-]`; other names travel through `slug()`.",
        "",
        "| subject | delivery | from → to | message | what |",
        "|---|---|---|---|---|",
    ]
    for subject in REGISTRY:
        speakers = ", ".join((subject.owner, *subject.publishers))
        delivery = subject.delivery + (f" (`{subject.stream.name}`)" if subject.stream else "")
        lines.append(
            f"| `{subject.pattern}` | {delivery} | {speakers} → {', '.join((*subject.listeners, *subject.live))} "
            f"| `{subject.message.__name__}` | {subject.about} |"
        )
    lines += [
        "",
        "Answers to `infer.<replica>` go to the router's inbox as `Chunk`, then one `Finished` or `Failed`.",
        "",
    ]
    lines += [
        "## Streams",
        "",
        "| stream | retention | kept for | at most | per subject |",
        "|---|---|---|---|---|",
    ]
    for stream in STREAMS:
        age = f"{stream.max_age_s / 86400:g} d" if stream.max_age_s else "for ever"
        kept = "last only" if stream.per_subject == 1 else "all"
        lines.append(
            f"| `{stream.name}` | {stream.retention} | {age} | {stream.max_bytes >> 20} MiB | {kept} |"
        )
    lines += ["", "## Messages", ""]
    seen: list[Any] = []
    for subject in REGISTRY:
        if subject.message not in seen:
            seen.append(subject.message)
            lines += _message(subject.message)
    return "\n".join(lines)


def _message(message: type[msgspec.Struct]) -> list[str]:
    lines = [
        f"### {message.__name__}",
        "",
        (message.__doc__ or "").strip(),
        "",
        "| field | type | default |",
        "|---|---|---|",
    ]
    for field in msgspec.structs.fields(message):
        default = (
            "required"
            if field.required
            else f"`{field.default if field.default is not msgspec.NODEFAULT else '{}'}`"
        )
        kind = str(field.type.__name__ if isinstance(field.type, type) else field.type)
        kind = kind.replace("typing.", "").replace("autopoiesis.contracts.messages.", "").replace("|", "\\|")
        lines.append(f"| `{field.name}` | {kind} | {default} |")
    return [*lines, ""]


def _publishes(service: Service) -> list[str]:
    names = [s.wildcard() for s in REGISTRY if service == s.owner or service in s.publishers]
    if service == "worker":
        names.append(f"{ROUTER_INBOX}.>")
    return names + _jetstream(service)


def _subscribes(service: Service) -> list[str]:
    plain = ("core", "last")  # listeners to the last message also hear the next one as it is published
    heard = [
        s.wildcard()
        for s in REGISTRY
        if (service in s.listeners and s.delivery in plain) or service in s.live
    ]
    return [*heard, f"_INBOX.{service}.>"]


def _jetstream(service: Service) -> list[str]:
    streams = [stream.name for stream in streams_of(service)]
    if not streams:
        return []
    names = ["$JS.API.INFO"]
    for stream in streams:
        names += [f"$JS.API.STREAM.{verb}.{stream}" for verb in ("INFO", "CREATE", "UPDATE", "MSG.GET")]
        names += [
            f"$JS.API.CONSUMER.{verb}.{stream}.>"
            for verb in ("INFO", "CREATE", "DURABLE.CREATE", "DELETE", "MSG.NEXT")
        ]
        names += [
            f"$JS.API.CONSUMER.CREATE.{stream}",
            f"$JS.API.DIRECT.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}.>",
        ]
        names.append(f"$JS.ACK.{stream}.>")
    return names


def permissions() -> str:
    """One NATS user per service, allow-lists only; passwords come from the environment of the server."""
    lines = ["# Generated from autopoiesis.contracts.subjects by `make docs`; do not edit.", "users: ["]
    for service in get_args(Service):
        publish = ", ".join(f'"{name}"' for name in _publishes(service))
        subscribe = ", ".join(f'"{name}"' for name in _subscribes(service))
        lines += [
            f"  {{ user: {service}, password: $NATS_{service.upper()}_PASSWORD, permissions: {{",
            f"      publish: {{ allow: [{publish}] }},",
            f"      subscribe: {{ allow: [{subscribe}] }} }} }}",
        ]
    return "\n".join([*lines, "]", ""])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    stale = [
        path
        for path, text in ((SUBJECTS_PAGE, page()), (PERMISSIONS, permissions()))
        if _differs(path, text, options.write)
    ]
    if stale and options.check:
        sys.stderr.write(f"stale: {', '.join(map(str, stale))}; run `make docs`\n")
        return 1
    return 0


def _differs(path: Path, text: str, write: bool) -> bool:
    if path.exists() and path.read_text() == text:
        return False
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return True


if __name__ == "__main__":
    sys.exit(main())
