"""What the scripts of the suites share.

Every script is both ends: `SCRIPT serve MODE PORT SECRET` and `SCRIPT connect MODE HOST PORT SECRET`. A script that
ends with 0 has seen every byte that it must see, and nothing that a program must not see without us; anything else is
an exception, which says what it was. What nobody answers within PATIENCE is taken for a hang.
"""

import socket
import sys

PATIENCE = 60.0


def listener(port, share=False):
    """Listens on every address of both families."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("::", port))
    server.listen(128)
    return server


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connect(host, port):
    """A connected blocking socket whose calls do not hang for ever."""
    client = socket.socket(family(host), socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    client.connect((host, port))
    return client


def receive(sock, length):
    """Exactly `length` bytes."""
    received = b""
    while len(received) < length:
        part = sock.recv(length - len(received))
        if not part:
            raise EOFError(f"{len(received)} of {length} bytes came")
        received += part
    return received


def echo(sock):
    """Sends back what comes until the other end ends, then ends."""
    with sock:
        while part := sock.recv(65536):
            sock.sendall(part)


def payload(secret, length):
    """Bytes that are all different enough to show where one is missing, full of the secret."""
    lines = (f"{secret} {number:08}\n" for number in range(length // len(secret) + 1))
    return "".join(lines).encode()[:length]


def expect(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got[:80]!r} ({len(got)} bytes), wanted {wanted[:80]!r} ({len(wanted)} bytes)")


def ask(sock, message):
    """Sends a message to an echo and expects it back."""
    sock.sendall(message)
    expect(receive(sock, len(message)), message)


def main(serve, connect):
    """Plays the role of the command line: `serve` and `connect` give the function for each mode."""
    role, mode, *rest = sys.argv[1:]
    if role == "serve":
        serve[mode](int(rest[0]), rest[1])
    elif role == "connect":
        connect[mode](rest[0], int(rest[1]), rest[2])
    else:
        raise ValueError(role)
