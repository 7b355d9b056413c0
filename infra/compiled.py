"""Compile the hot modules of dispatch, simulator and router to C with mypyc: the same sources, the same results, less time.

    python infra/compiled.py                  # makes .venv-compiled on top of the environment that runs this
    python infra/compiled.py --into SITE      # into a site-packages folder that holds the packages already
    python infra/compiled.py --check          # whether .venv-compiled is there and of today's sources; exit status 1 if not

Compiled are copies, never what lies in the checkout: an edited source is always what `.venv` runs. Needs a C compiler, Python's
headers, mypy and setuptools; exit status 3 where one of them is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
ENVIRONMENT: Final = REPOSITORY / ".venv-compiled"
WITH_TYPES: Final = ("contracts", "policy", "runtime")
"""Packages whose types the compiled ones use."""
COMPILED: Final = {
    "dispatch": (
        "admission budget chance control core deciding estimators fleet handover holding latency learning lengths models names "
        "parties prefix queue replicas strikes traffic workflows"
    ),
    "router": (
        "admission auth breaker errors fleet flight hedging histogram http/exchange http/sse identity metrics orders prompts records "
        "reporting serving tracing transports/attached transports/both transports/client transports/direct upload"
    ),
    "simulator": (
        "batch lookahead prefix replica steptime requests/engines requests/membership requests/transfers requests/world"
    ),
}
"""Left out is what makes no difference (settings, all that NumPy does) and what mypyc does not compile as CPython would:
msgspec structs, whose options it drops.
"""
FLAGS: Final = ("-ffp-contract=off",)
"""No fused multiply-add: it rounds once where Python rounds twice, and runs would differ from interpreted ones."""


def sources(package: str) -> Path:
    kind = "packages" if (REPOSITORY / "packages" / package).exists() else "services"
    return REPOSITORY / kind / package / "src" / "autopoiesis" / package


def missing() -> list[str]:
    """What this machine lacks."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    lacks = [] if shutil.which(compiler) else [f"the C compiler {compiler}"]
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        lacks.append(f"Python's headers in {sysconfig.get_path('include')}")
    needed = {"mypyc": "mypy", "setuptools": "setuptools"}
    lacks += [f"the Python package {name}" for module, name in needed.items() if find_spec(module) is None]
    return lacks


def build(folder: Path) -> None:
    """Copies of the packages' sources in `folder`/autopoiesis, and the compiled modules beside them."""
    for package in COMPILED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(sources(package), folder / "autopoiesis" / package, ignore=ignored)
    modules = [
        f"autopoiesis/{package}/{name}.py" for package, names in COMPILED.items() for name in names.split()
    ]
    roots = [str(folder), *(str(sources(package).parents[1]) for package in WITH_TYPES)]
    os.environ["MYPYPATH"] = os.pathsep.join(roots)
    os.chdir(folder)

    import setuptools  # mypyc takes the build tool that was imported before it
    from mypyc.build import mypycify
    from setuptools.command.build_ext import build_ext

    options = [
        "--config-file=",
        "--namespace-packages",
        "--explicit-package-bases",
        "--follow-imports=silent",
    ]
    with tempfile.TemporaryDirectory() as generated:
        extensions = mypycify(
            [*options, f"--cache-dir={generated}", *modules],
            target_dir=generated,
            group_name="autopoiesis",
            debug_level="0",
        )
        for extension in extensions:
            extension.extra_compile_args.extend(FLAGS)
        command = build_ext(setuptools.Distribution({"name": "autopoiesis", "ext_modules": extensions}))
        command.inplace, command.build_temp = True, generated
        command.ensure_finalized()
        command.run()


def environment() -> Path:
    """The site-packages folder of a fresh environment that falls back to the one that runs this."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", ENVIRONMENT], check=True)
    site = site_of(ENVIRONMENT)
    below = sysconfig.get_path("purelib")
    (site / "autopoiesis-interpreted.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    server = Path(sys.executable).with_name("nats-server")  # looked for beside the interpreter
    if server.exists():
        (ENVIRONMENT / "bin" / server.name).symlink_to(server)
    return site


def site_of(venv: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))


def current() -> bool:
    """Whether the environment is there and every source in it is today's."""
    site = site_of(ENVIRONMENT)
    return all(
        copy.exists() and copy.read_bytes() == path.read_bytes()
        for package in COMPILED
        for path in sources(package).rglob("*.py")
        for copy in [site / "autopoiesis" / package / path.relative_to(sources(package))]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, metavar="SITE")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        return 0 if current() else 1
    if lacks := missing():
        print(f"not compiled: {', '.join(lacks)} missing; all runs interpreted as it is", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        site = environment() if given.into is None else given.into
        for made in (*Path(folder).glob("*.so"), *Path(folder).glob("*.pyd")):
            shutil.copy(made, site)
        shutil.copytree(Path(folder, "autopoiesis"), site / "autopoiesis", dirs_exist_ok=True)
    print(f"compiled: {site}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
