"""A server of four processes. Mode `fork`: they share one listener; mode `reuseport`: each has its own on the same port.

A worker answers one line with its process id and the line, and closes. The server runs until it is asked to end.
"""

import os
import signal
import sys

import ends

WORKERS = 4


def work(server):
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"%d %s" % (os.getpid(), lines.readline()))


def serve(make_listeners):
    listeners = make_listeners()
    children = []
    for server in listeners:
        child = os.fork()
        if child == 0:
            work(server)
        children.append(child)

    def end(_signal, _frame):
        for child in children:
            os.kill(child, signal.SIGKILL)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    # A worker never ends by itself.
    _, status = os.wait()
    sys.exit(f"a worker ended with wait status {status}")


ends.main(
    {
        "fork": lambda port, _: serve(lambda: [ends.listener(port)] * WORKERS),
        "reuseport": lambda port, _: serve(lambda: [ends.listener(port, share=True) for _ in range(WORKERS)]),
    },
    {},
)
