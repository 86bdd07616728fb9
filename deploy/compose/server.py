"""The containers of production.yml, as `docker compose` drives them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A step did not succeed."""


class Server:
    """What `config`/paybus.env describes, with the images of `tag` instead of its own if given.

    COMPOSE_PROJECT_NAME names another project than `paybus`.
    """

    def __init__(self, config: Path, tag: str | None = None) -> None:
        self.config = config
        self._environment = os.environ | {"PAYBUS_CONFIG": str(config)}
        if tag is not None:
            self._environment["PAYBUS_TAG"] = tag

    def compose(self, *arguments: str) -> str:
        """Return what it printed. Raises `Failed` with that."""
        files = ("docker-compose.yml", "deploy/compose/production.yml")
        command = ["docker", "compose", "--env-file", str(self.config / "paybus.env")]
        for each in files:
            command += ["--file", str(ROOT / each)]
        return self.run([*command, *arguments])

    def succeeds(self, *arguments: str) -> bool:
        """Return whether `docker compose` succeeds."""
        try:
            self.compose(*arguments)
        except Failed:
            return False
        return True

    def has_image(self, image: str) -> bool:
        try:
            self.run(["docker", "image", "inspect", image])
        except Failed:
            return False
        return True

    def run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failed(f"{' '.join(command[-6:])}:\n{done.stdout}{done.stderr}")
        return done.stdout


def say(step: str) -> None:
    """Print the step that begins."""
    print(f"{step} ...", flush=True)
