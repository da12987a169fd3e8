"""The long form of this folder: the same tests with many new examples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = os.environ.get("RELAY_FUZZ_TIMES", "20")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_new_examples() -> None:
    options = ["-n", "0", "-m", "not long", "-o", "timeout=3000"]
    command = [sys.executable, "-m", "pytest", *options, str(Path(__file__).parent)]
    environ = {**os.environ, "RELAY_FUZZ_TIMES": TIMES}
    ran = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ran.returncode == 0, ran.stdout
