"""How ranks without MPI find each other: rank 0 hands one identifier to all, over TCP, once.

Rank 0 listens on MASTER_ADDR (default 127.0.0.1) and MASTER_PORT, as torchrun, Slurm scripts and Kubernetes
operators set them; on another address with GPUPROP_BIND. Bytes of a known length pass, nothing else.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from ..errors import DeviceError

LOOPBACK, PORT = "127.0.0.1", 29500
GREETING = b"gpuprop-rank-1"


def address(variables: Mapping[str, str] | None = None) -> tuple[str, str, int]:
    """(where rank 0 binds, what the others connect to, port)."""
    given = os.environ if variables is None else variables
    host = given.get("MASTER_ADDR", "").strip() or LOOPBACK
    port = given.get("GPUPROP_PORT", "").strip() or given.get("MASTER_PORT", "").strip() or str(PORT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise DeviceError(f"MASTER_PORT is a port from 1 to 65535, not {port!r}")
    agent = given.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and "GPUPROP_PORT" not in given
    return given.get("GPUPROP_BIND", "").strip() or host, host, int(port) + agent  # torchrun has the first


def hand_out(message: bytes, ranks: int, bind: str, port: int, timeout: float) -> None:
    """On rank 0: give the message to each of the other ranks."""
    deadline = time.monotonic() + timeout
    try:
        server = socket.create_server((bind, port))
    except OSError as error:
        raise DeviceError(
            f"rank 0 cannot listen on {bind} port {port}: {error.strerror or error}. Set MASTER_ADDR to an "
            "address of its machine, GPUPROP_BIND=0.0.0.0 behind a service's address, GPUPROP_PORT to a "
            "free port"
        ) from error
    served: set[int] = set()
    with server:
        while len(served) < ranks - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                with server.accept()[0] as connection:
                    rank = _greeted(connection)
                    if rank is not None and 0 < rank < ranks:
                        connection.sendall(message)
                        served.add(rank)
            except OSError as error:
                if time.monotonic() >= deadline:
                    missing = sorted(set(range(1, ranks)) - served)
                    raise DeviceError(
                        f"rank 0 waited {timeout:.0f} s on {bind} port {port}: ranks {missing} did not come"
                    ) from error


def fetch(rank: int, size: int, host: str, port: int, timeout: float) -> bytes:
    """On the other ranks: the `size` bytes that rank 0 hands out."""
    deadline, problem = time.monotonic() + timeout, "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=5.0) as connection:
                connection.sendall(GREETING + rank.to_bytes(4, "little"))
                found = _received(connection, size)
                if found is not None:
                    return found
        except OSError as error:
            problem = error.strerror or str(error)
        time.sleep(0.05)
    raise DeviceError(
        f"rank {rank} waited {timeout:.0f} s for rank 0 at {host} port {port}: {problem}. MASTER_ADDR and "
        "MASTER_PORT must name the machine of rank 0, the same on every rank"
    )


def _greeted(connection: socket.socket) -> int | None:
    connection.settimeout(5.0)
    found = _received(connection, len(GREETING) + 4)
    if found is None or not found.startswith(GREETING):
        return None
    return int.from_bytes(found[len(GREETING) :], "little")


def _received(connection: socket.socket, size: int) -> bytes | None:
    parts = b""
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return parts
