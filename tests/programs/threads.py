"""Threads with timeouts on their calls; on each connection one thread sends while another receives."""

import threading

import ends

CONNECTIONS = 8
MESSAGES = 30
BYTES = 65536


def run_all(works):
    """Runs each work on a thread and raises what any of them raised."""
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as failure:  # Whatever it is, the main thread must see it.
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def serve(port, _secret):
    server = ends.listener(port)
    accepted = []
    for _ in range(CONNECTIONS):
        connection, _ = server.accept()
        connection.settimeout(ends.PATIENCE)
        accepted.append(lambda connection=connection: ends.echo(connection))
    run_all(accepted)


def connect(host, port, secret):
    def converse(number):
        with ends.connect(host, port) as client:
            for message in range(MESSAGES):
                ends.ask(client, f"{secret} {number} {message}\n".encode())
            bulk = ends.payload(f"{secret} {number}", BYTES)
            got = []
            run_all([lambda: client.sendall(bulk), lambda: got.append(ends.receive(client, BYTES))])
            ends.expect(got[0], bulk)

    run_all([lambda number=number: converse(number) for number in range(CONNECTIONS)])


ends.main({"echo": serve}, {"echo": connect})
