"""The images that docker-compose.yml names: pulled, or made from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from devstack.processes.stack import PAYBUS
from devstack.processes.supervisor import say
from devstack.servers import debian
from devstack.servers.docker_engine import OURS

_FOLDER = Path(__file__).parent / "base-images"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

# By the official image's name: the Dockerfile here, and the Debian release that it needs. There is
# none of Grafana, which Debian does not have.
STAND_INS: Final[Mapping[str, tuple[str, str]]] = {
    "python": ("python", "trixie"),
    "rabbitmq": ("rabbitmq", "forky"),
    "postgres": ("postgres", "forky"),
    "prom/prometheus": ("prometheus", "forky"),
    "prom/alertmanager": ("alertmanager", "forky"),
    "caddy": ("caddy", "forky"),
}


def provide(image: str) -> bool:
    """Have the image, as `name:tag`; return whether it can be had."""
    ours = OURS in os.environ
    # In an engine of our own, what is there may be a stand-in that has changed since.
    if not ours and _succeeds("image", "inspect", image):
        return True
    if _succeeds("pull", "--quiet", image):
        return True
    name = image.partition(":")[0]
    if name not in STAND_INS or not ours:
        return False
    file, release = STAND_INS[name]
    _provide_debian(release)
    say(f"making an image {image} from Debian's packages ...")
    _build(_FOLDER, _FOLDER / f"{file}.Dockerfile", image)
    return True


def _provide_debian(release: str) -> None:
    image = f"paybus-test/debian:{release}"
    if _succeeds("image", "inspect", image):
        return
    say(f"making an image of Debian {release} ...")
    context = PAYBUS / "docker" / f"image-{release}"
    tree = context / "tree"
    debian.bootstrap(release, tree, ["ca-certificates"])
    shutil.copy(f"/{_CERTIFICATES}", tree / _CERTIFICATES)
    # As debootstrap does: a mirror may be a snapshot of its release.
    (tree / "etc/apt/apt.conf.d/99snapshot").write_text('Acquire::Check-Valid-Until "false";\n')
    shutil.rmtree(tree / "dev")
    with tarfile.open(context / "tree.tar", "w") as packed:
        packed.add(tree, arcname=".")
    _build(context, _FOLDER / "debian.Dockerfile", image)
    shutil.rmtree(context)


def _build(context: Path, file: Path, image: str) -> None:
    docker("build", "--quiet", "--network=host", "--tag", image, "--file", str(file), str(context))


def docker(*arguments: str) -> str:
    """Run `docker`; return its output. Raises `AssertionError` with what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def _succeeds(*arguments: str) -> bool:
    done = subprocess.run(["docker", *arguments], capture_output=True, check=False)
    return done.returncode == 0
