"""A writer that does not block fills every buffer on the way, and is gone: what the kernel has taken from it arrives.

The count comes on a second connection, after the first is closed; until then nobody reads. A greeting keeps the two
apart, because a relay may bring them in either order.
"""

import socket

import ends

ROUNDS = 24
RECORD = 16384
RECEIVE_BUFFER = 16384
# Blocks; enough to fill what is between two sockets, and little enough to be captured as a whole.
MOST = 60


def fill(sock, block, most):
    """Writes blocks until the kernel takes no more; how many octets it has taken."""
    sock.setblocking(False)
    taken = 0
    try:
        for _ in range(most):
            taken += sock.send(block)
    except BlockingIOError:
        pass
    return taken


def leave(host, port, secret, ends_half):
    for number in range(ROUNDS):
        block = ends.payload(secret, RECORD - number % 5 * 1000)
        sock = ends.connect(host, port)
        ends.expect(ends.receive(sock, 2), b"hi")
        # Where the buffer is full in a record depends on how many there are.
        taken = fill(sock, block, 3 * number + 1 if number % 2 else MOST)
        if ends_half:
            sock.shutdown(socket.SHUT_WR)
        else:
            sock.close()
        with ends.connect(host, port) as count:
            count.sendall(f"{taken:08}".encode())
            ends.expect(ends.receive(count, 2), b"ok")
        sock.close()


def count(port, _secret):
    server = ends.listener(port)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    for number in range(ROUNDS):
        data, _ = server.accept()
        data.sendall(b"hi")
        told, _ = server.accept()
        data.settimeout(ends.PATIENCE)
        with data, told:
            taken, came = int(ends.receive(told, 8)), 0
            while part := data.recv(65536):
                came += len(part)
            if came != taken:
                raise EOFError(f"connection {number}: of {taken} bytes {came} came")
            told.sendall(b"ok")


ends.main(
    {"count": count},
    {
        "close": lambda host, port, secret: leave(host, port, secret, False),
        "shutdown": lambda host, port, secret: leave(host, port, secret, True),
    },
)
