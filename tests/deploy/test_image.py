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
IMAGES = [*sorted(each.name for each in (ROOT / "services").iterdir() if each.is_dir()), "sandbox"]
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()


# Run in the image: an import that only another service's dependencies satisfy fails here.
_IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not each.name.endswith(".__main__") and ".migrations." not in each.name:
        importlib.import_module(each.name)
"""


@pytest.mark.parametrize("service", IMAGES)
def test_an_image_holds_all_that_its_service_imports(service: str, tmp_path: Path) -> None:
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
    package = service.replace("-", "_")
    module = {"sandbox": "sandbox.backend"}.get(service, package)
    for arguments in (["-m", module, "--help"], ["-c", _IMPORT_ALL, package]):
        started = subprocess.run(
            [app / "bin" / "python", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert started.returncode == 0, started.stderr
