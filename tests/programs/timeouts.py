"""Calls that are to give up after a while do so after that while, and the connection goes on as if nothing had been.

`settimeout` waits in poll, SO_RCVTIMEO in the receive call itself; each is tried first on a connection of its own. The
server says nothing until it is asked.
"""

import errno
import struct
import time

import ends

SHORT = 0.2
ROUNDS = 2


def serve(port, _secret):
    server = ends.listener(port)
    for _ in range(ROUNDS):
        connection, _ = server.accept()
        ends.echo(connection)


def gives_up(receive, expected):
    """Nothing comes: it must be told after the time and not before, and by this error."""
    began = time.monotonic()
    try:
        received = receive()
    except OSError as error:
        took = time.monotonic() - began
        if not isinstance(error, TimeoutError) and error.errno != expected:
            raise
        # The kernel counts in ticks of 4 ms, and may be one short.
        if took < SHORT - 0.01:
            raise AssertionError(f"gave up after {took} s") from error
        return
    raise AssertionError(f"received {received!r}")


def connect(host, port, secret):
    for number in range(ROUNDS):
        client = ends.connect(host, port)
        for attempt in range(ROUNDS):
            if (number + attempt) % 2 == 0:
                client.settimeout(SHORT)
                gives_up(lambda: client.recv(100), errno.ETIMEDOUT)
            else:
                client.settimeout(None)
                set_receive_timeout(client, SHORT)
                gives_up(lambda: client.recv(100), errno.EAGAIN)
            client.settimeout(ends.PATIENCE)
            ends.ask(client, f"{secret} {number} {attempt}\n".encode())
        client.close()


def set_receive_timeout(client, seconds):
    value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    client.setsockopt(ends.socket.SOL_SOCKET, ends.socket.SO_RCVTIMEO, value)


ends.main({"echo": serve}, {"echo": connect})
