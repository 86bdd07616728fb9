"""An image without Docker: the Dockerfile's own instructions, in folders of this machine.

Each service is installed alone, as in its image: what only another service's dependencies satisfy
fails here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from conftest import MakePaybus
from devstack.processes.process import run_once

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(each.name for each in (ROOT / "services").iterdir() if each.is_dir())
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"

_IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not each.name.endswith(".__main__") and ".migrations." not in each.name:
        importlib.import_module(each.name)
"""


def _instructions() -> Iterator[tuple[str, str]]:
    """Yield the Dockerfile's instructions, each as one line."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, arguments = line.partition(" ")
        if name:
            yield name, arguments


@dataclass
class Image:
    """The stages that build, executed under `root`; `app` and `code` are what the image copies."""

    root: Path
    arguments: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return self.arguments["SERVICE"].replace("-", "_")

    @property
    def python(self) -> Path:
        return self.root / "app" / "bin" / "python"

    def build(self) -> None:
        (self.root / "build").mkdir(parents=True)
        stage = 0
        for name, arguments in _instructions():
            stage += name == "FROM"
            if stage == 3:
                break  # the final stage copies what the others have made
            if name == "ARG":
                known, _, default = arguments.partition("=")
                self.arguments.setdefault(known, self._expanded(default))
            elif name == "ENV":
                pairs = (each.split("=", 1) for each in shlex.split(arguments))
                self.environment |= dict(pairs)
            elif name == "COPY":
                source, target = self._expanded(arguments).split()
                self._copy(ROOT / source, target)
            elif name == "RUN" and "-r uv.lock" not in arguments:  # uv is here
                self._run(re.sub(r"--mount=\S+ ", "", arguments))
        shutil.rmtree(self.root / "build")

    def started(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.root / "code")}
        command = [str(self.python), *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )

    def _expanded(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda found: self.arguments[found[1]], text)

    def _copy(self, source: Path, target: str) -> None:
        into = self.root / "build" / target
        if source.is_dir():
            waste = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, into, ignore=waste, dirs_exist_ok=True)
        else:  # each file's target is a folder
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into)

    def _run(self, command: str) -> None:
        for folder in ("app", "code"):
            command = re.sub(rf"(?<= )/{folder}\b", str(self.root / folder), command)
        environment = os.environ | self.environment | self.arguments
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=self.root / "build",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=[*SERVICES, "sandbox"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    arguments = {"SERVICE": request.param}
    if request.param == "sandbox":
        arguments["FOLDER"] = "sandbox"
    made = Image(tmp_path_factory.mktemp(request.param), arguments)
    made.build()
    return made


def test_an_image_holds_all_that_its_service_imports(image: Image) -> None:
    """Each package is where it is searched, and none refers back to the build folder."""
    started = image.started("-c", _IMPORT_ALL, image.package)
    assert started.returncode == 0, started.stderr


def test_an_image_holds_no_other_service(image: Image) -> None:
    names = {each.name for each in (image.root / "code").iterdir()}
    packages = {each for each in names if (image.root / "code" / each / "__init__.py").exists()}
    assert packages == {"common", image.package}
    listed = "import importlib.metadata as m; print(*{d.name for d in m.distributions()})"
    found = {each for each in image.started("-c", listed).stdout.split() if "paybus" in each}
    assert found == {"paybus-common", f"paybus-{image.arguments['SERVICE']}"}


@pytest.mark.parametrize("role", ["migrate", "worker", "api"])
def test_every_role_starts_with_what_its_image_holds(
    image: Image, role: str, make_paybus: MakePaybus, logs: Path
) -> None:
    service = image.arguments["SERVICE"]
    if service == "sandbox":
        pytest.skip("it has no roles")
    with make_paybus() as paybus:
        layout = paybus.layout
        name = "webhook-gateway" if (service, role) == ("webhook-gateway", "api") else ""
        is_migration = role == "migrate"
        spec = (
            layout.migration(service) if is_migration else layout.spec(name or f"{service}-{role}")
        )
        environment = {**spec.env, "PYTHONPATH": str(image.root / "code")}
        spec = replace(spec, python=str(image.python), env=environment)
        if is_migration:
            run_once(spec, logs)
        else:
            process = paybus.system.start_one(spec)
            process.wait_ready()
            process.ask_to_stop()
            assert process.wait() == 0


def test_an_image_takes_no_dependency_whose_hash_is_another(tmp_path: Path) -> None:
    """The lock is a constraint in the Dockerfile; its hashes hold all the same."""
    lock = (ROOT / "requirements.lock").read_text()
    (of_it,) = re.findall(r"^defusedxml==(?:.*\\\n)*.*$", lock, re.MULTILINE)
    forged = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", of_it)
    (tmp_path / "requirements.lock").write_text(lock.replace(of_it, forged))
    uv = Path(sys.executable).parent / "uv"
    environment = os.environ | {"UV_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([uv, "venv", "--quiet", tmp_path / "app"], check=True)
    at = ["--python", str(tmp_path / "app")]
    done = subprocess.run(
        [str(uv), "pip", "install", *at, "-c", "requirements.lock", "defusedxml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
