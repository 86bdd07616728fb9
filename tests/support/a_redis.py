"""A private Redis for one test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devstack.servers.redis import PrivateRedis, find_server


@contextmanager
def a_redis(folder: Path) -> Iterator[PrivateRedis]:
    """Start a Redis and stop it afterwards. Skips the test if no Redis server can be started."""
    server = find_server()
    if server is None:
        pytest.skip("needs a redis-server on this machine, or PAYBUS_REDIS_SERVER to name one")
    redis = PrivateRedis(server, folder)
    redis.start()
    try:
        yield redis
    finally:
        redis.stop()
