"""One file for all processes: each reads the sections of the others without taking offence."""

from pathlib import Path

import pytest

from autopoiesis.cli.context import Common
from autopoiesis.cli.sections import SECTIONS
from autopoiesis.runtime.settings import Settings


def test_every_section_is_known_to_every_process(tmp_path: Path) -> None:
    file = tmp_path / "autopoiesis.yaml"
    file.write_text("".join(f"{section.prefix}: {{}}\n" for section in SECTIONS))
    assert Settings.load(config=file, env={}).file == file


def test_the_file_of_the_working_directory_is_told_to_what_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOPOIESIS_CONFIG", raising=False)
    assert Common().settings().file is None
    (tmp_path / "autopoiesis.yaml").write_text("vllm: {devices: 1xCPU}\n")
    file = Common().settings(*SECTIONS).file
    assert file is not None
    assert file.absolute() == tmp_path / "autopoiesis.yaml"
