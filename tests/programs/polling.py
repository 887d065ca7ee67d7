"""Non-blocking sockets in an epoll set that they have joined before they were connected.

Modes: `level` and `edge`, as the set reports; `spin`, a server that asks for connections all the time, and so has each
of them before anybody else has seen it. A connection that was reported writable must take bytes, one that was
reported readable must give some, or its end: a false report would show as an exception in level mode.
"""

import errno
import select

import ends

CONNECTIONS = 10
BYTES = 65536


def serve(port, trigger):
    server = ends.listener(port)
    server.setblocking(False)
    epoll = select.epoll()
    epoll.register(server, select.EPOLLIN)
    connections, unsent, ended = {}, {}, 0
    while ended < CONNECTIONS:
        events = epoll.poll(ends.PATIENCE)
        if not events:
            raise TimeoutError("nothing happened")
        for descriptor, event in events:
            if descriptor == server.fileno():
                connection, _ = server.accept()
                connection.setblocking(False)
                connections[connection.fileno()], unsent[connection.fileno()] = connection, b""
                epoll.register(connection, select.EPOLLIN | trigger)
                continue
            connection = connections[descriptor]
            if event & select.EPOLLIN and not read_into(connection, unsent, trigger):
                ended += 1
                epoll.unregister(connection)
                connection.close()
                continue
            unsent[descriptor] = write(connection, unsent[descriptor])
            wanted = select.EPOLLIN | (select.EPOLLOUT if unsent[descriptor] else 0)
            epoll.modify(connection, wanted | trigger)


def spin(port):
    server = ends.listener(port)
    server.setblocking(False)
    for _ in range(CONNECTIONS):
        connection = None
        while not connection:
            try:
                connection, _ = server.accept()
            except BlockingIOError:
                pass
        connection.setblocking(True)
        ends.echo(connection)


def talk(host, port, secret):
    for number in range(CONNECTIONS):
        with ends.connect(host, port) as client:
            ends.ask(client, ends.payload(f"{secret} {number}", BYTES))


def read_into(connection, unsent, trigger):
    """Takes what is there, in edge mode until nothing is left; false at the end."""
    while True:
        try:
            part = connection.recv(16384)
        except BlockingIOError:
            # Readiness is a hint: kernel TLS of Linux 6.1 also gives it for a part of a record.
            return True
        if not part:
            return False
        unsent[connection.fileno()] += part
        if not trigger:
            return True


def write(connection, text):
    """Sends what the kernel takes and gives the rest."""
    while text:
        try:
            text = text[connection.send(text):]
        except BlockingIOError:
            break
    return text


def connect(host, port, secret, trigger):
    for number in range(CONNECTIONS):
        bulk = ends.payload(f"{secret} {number}", BYTES)
        ends.expect(exchange(host, port, bulk, trigger), bulk)


def exchange(host, port, bulk, trigger):
    client = ends.socket.socket(ends.family(host), ends.socket.SOCK_STREAM)
    client.setblocking(False)
    epoll = select.epoll()
    epoll.register(client, select.EPOLLIN | select.EPOLLOUT | trigger)
    begun = client.connect_ex((host, port))
    if begun not in (0, errno.EINPROGRESS):
        raise OSError(begun, "connect")
    received, rest, connected = {client.fileno(): b""}, bulk, False
    while len(received[client.fileno()]) < len(bulk):
        events = epoll.poll(ends.PATIENCE)
        if not events:
            raise TimeoutError("nothing happened")
        for _, event in events:
            if event & (select.EPOLLERR | select.EPOLLHUP):
                raise OSError(client.getsockopt(ends.socket.SOL_SOCKET, ends.socket.SO_ERROR), "epoll")
            if event & select.EPOLLOUT:
                if not connected and client.getsockopt(ends.socket.SOL_SOCKET, ends.socket.SO_ERROR) != 0:
                    raise OSError("writable, and not connected")
                connected = True
                rest = write(client, rest)
                if not rest and not trigger:
                    epoll.modify(client, select.EPOLLIN)
            if event & select.EPOLLIN and not read_into(client, received, trigger):
                raise EOFError("ended early")
    result = received[client.fileno()]
    client.close()
    return result


ends.main(
    {
        "level": lambda port, _secret: serve(port, 0),
        "edge": lambda port, _secret: serve(port, select.EPOLLET),
        "spin": lambda port, _secret: spin(port),
    },
    {
        "talk": talk,
        "level": lambda host, port, secret: connect(host, port, secret, 0),
        "edge": lambda host, port, secret: connect(host, port, secret, select.EPOLLET),
    },
)
