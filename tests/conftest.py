"""No test reaches the network, the caches of the person who runs it, or the log of the next test."""

import ipaddress
import logging
import os
import socket

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    if "PASTA_GYM_CACHE" not in os.environ:
        os.environ["PASTA_GYM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def _is_loopback(address):
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = address[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network():
    connect = socket.socket.connect

    def guarded(self, address):
        if not _is_loopback(address):
            raise OSError(f"tests must not reach the network, but something connects to {address}")
        return connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def same_log_level():
    """Commands under test set the level of what is logged, for the whole process."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
