"""An image's installation without Docker: its own command, in a copy of the files it copies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("service", ["orders", "operations", "sandbox"])
def test_an_image_holds_its_service(service: str, tmp_path: Path) -> None:
    """Each package is where it is searched, and none refers back to the build folder."""
    build, app = tmp_path / "build", tmp_path / "app"
    build.mkdir()
    for source in re.findall(r"^COPY (\S+) \S+$", DOCKERFILE.partition("\nFROM python")[2], re.M):
        if (ROOT / source).is_dir():
            waste = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / source, build / source, ignore=waste)
        else:
            shutil.copy(ROOT / source, build / source)
    (command,) = re.findall(r"^RUN (uv venv(?:.*\\\n)*.*)$", DOCKERFILE, re.M)
    environment = os.environ | {"SERVICE": service, "UV_LINK_MODE": "copy"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = command.replace("/app", str(app)).replace("--no-cache ", "")
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=build,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(build)
    module = {"sandbox": "sandbox.backend"}.get(service, service)
    started = subprocess.run(
        [app / "bin" / "python", "-m", module, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stderr
