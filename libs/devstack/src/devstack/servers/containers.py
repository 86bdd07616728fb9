"""RabbitMQ from Docker, where an engine runs and the machine has no RabbitMQ."""

from __future__ import annotations

import shutil
import subprocess

from devstack.addresses import RabbitMQ


def engine_runs() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


class RabbitMQContainer:
    """RabbitMQ 4 with the management plugin, on ports that Docker chooses."""

    def __init__(self, password: str) -> None:
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - only with Docker

        self._password = password
        self._container = (
            DockerContainer("rabbitmq:4.3.6-management")
            .with_env("RABBITMQ_DEFAULT_USER", "paybus")
            .with_env("RABBITMQ_DEFAULT_PASS", password)
            .with_exposed_ports(5672, 15672)
        )

    def start(self) -> None:
        from testcontainers.core.waiting_utils import wait_for_logs  # noqa: PLC0415

        self._container.start()
        wait_for_logs(self._container, "Server startup complete", timeout=120)

    @property
    def address(self) -> RabbitMQ:
        host = self._container.get_container_host_ip()
        amqp, management = (self._container.get_exposed_port(port) for port in (5672, 15672))
        login = f"paybus:{self._password}@{host}"
        return RabbitMQ(f"amqp://{login}:{amqp}/", f"http://{login}:{management}")

    def stop(self, *, keep_data: bool) -> None:
        del keep_data  # a container's data is deleted with it
        self._container.stop()
