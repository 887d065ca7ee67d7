"""Sends with MSG_ZEROCOPY, which a program has to ask for before (SO_ZEROCOPY).

Modes of the connecting end: `direct`, where such a send fails and nothing else does; `relayed`, where it works; `plain`,
which does not ask. The serving end is `echo`.
"""

import errno

import ends

# Python has no names for them.
SO_ZEROCOPY = 60
MSG_ZEROCOPY = 0x4000000


def serve(port, _secret):
    with ends.listener(port) as server:
        connection, _ = server.accept()
        ends.echo(connection)


def ask_for_it(host, port):
    client = ends.socket.socket(ends.family(host), ends.socket.SOCK_STREAM)
    client.settimeout(ends.PATIENCE)
    client.setsockopt(ends.socket.SOL_SOCKET, SO_ZEROCOPY, 0)
    client.setsockopt(ends.socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    client.connect((host, port))
    return client


def direct(host, port, secret):
    with ask_for_it(host, port) as client:
        ends.ask(client, secret.encode())
        try:
            client.send(secret.encode(), MSG_ZEROCOPY)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        else:
            raise AssertionError("a send with MSG_ZEROCOPY did not fail")
        ends.ask(client, secret.encode())


def relayed(host, port, secret):
    with ask_for_it(host, port) as client:
        message = secret.encode()
        sent = client.send(message, MSG_ZEROCOPY)
        ends.expect(ends.receive(client, sent), message)


def plain(host, port, secret):
    with ends.connect(host, port) as client:
        ends.ask(client, secret.encode())


ends.main({"echo": serve}, {"direct": direct, "relayed": relayed, "plain": plain})
