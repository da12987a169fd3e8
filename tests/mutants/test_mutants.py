"""Each guard is one that can be taken out, and then the test that docs/security.md names fails.

.venv/bin/pytest tests/mutants -m long -k lookups -n 0
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from tests.mutants.guard import Guard
from tests.test_docs_security import NAMED, threats

ROOT = Path(__file__).parents[2]

GUARDS = tuple(
    guard
    for file in sorted(Path(__file__).parent.glob("guards_*.py"))
    for guard in import_module(f"tests.mutants.{file.stem}").GUARDS
)

PATIENCE = 900
"""Seconds that the tests of one guard may take on a busy machine."""


def test_each_guard_stands_once_in_its_file_and_its_test_in_the_page() -> None:
    missing = [one.name for one in GUARDS if (ROOT / "relay" / one.file).read_text("utf-8").count(one.code) != 1]
    assert missing == []
    assert [one.name for one in GUARDS if tuple(one.test.split("::")) not in NAMED] == []
    assert max(Counter(one.name for one in GUARDS).values()) == 1


def test_of_each_threat_a_guard_can_be_taken_out() -> None:
    fail = {guard.test for guard in GUARDS}
    assert [threat for threat, _, tests in threats() if fail.isdisjoint(tests.strip("`").split("`, `"))] == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a Python of its own, which the tests' processes take relay from, too."""
    place = tmp_path_factory.mktemp("copy")
    for name in ("relay", "tests", "config", "docs"):
        shutil.copytree(ROOT / name, place / name)  # what is compiled, too
    shutil.copy(ROOT / "pyproject.toml", place)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True)
    packages = next((place / ".venv").glob("lib/python*/site-packages"))
    (packages / "copy.pth").write_text(f"{place}\n{sysconfig.get_paths()['purelib']}\n")
    return place


@pytest.mark.long
@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("guard", GUARDS, ids=lambda one: one.name.replace(" ", "-"))
def test_without_a_guard_its_test_fails(guard: Guard, copy: Path) -> None:
    file = copy / "relay" / guard.file
    whole = file.read_text("utf-8")
    path, _, name = guard.test.partition("::")
    python = copy / ".venv/bin/python"
    command = [python, "-B", "-m", "pytest", "-n", "0", "-x", "-m", "", f"tests/{path}.py::{name}"]
    file.write_text(whole.replace(guard.code, guard.without), "utf-8")
    try:
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=PATIENCE, check=False)
    finally:
        file.write_text(whole, "utf-8")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout[-3000:] + run.stderr[-1000:]
