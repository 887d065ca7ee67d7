"""Signals while bytes move.

Mode `timer`: a handler runs every few milliseconds, from before the connection begins until after its end, and all
bytes are right. Mode `quiet`: nobody handles a signal, and so no call may say EINTR; the calls go to the C library
itself, because Python would try them again without a word.
"""

import ctypes
import errno
import select
import signal
import struct

import ends

BYTES = 1 << 20
INTERVAL = 0.003

libc = ctypes.CDLL(None, use_errno=True)


def serve_timer(port, _secret):
    with ticking():
        connection, _ = ends.listener(port).accept()
        ends.echo(connection)


def connect_timer(host, port, secret):
    with ticking() as ticks:
        client = ends.socket.socket(ends.family(host), ends.socket.SOCK_STREAM)
        client.connect((host, port))
        bulk = ends.payload(secret, 65536)
        for _ in range(BYTES // len(bulk)):
            ends.ask(client, bulk)
        while not ticks.count:  # A fast machine may be done before the first one.
            ends.ask(client, secret.encode())
        client.close()


class ticking:
    """A timer with a handler, for as long as the block takes."""

    def __enter__(self):
        self.count = 0
        signal.signal(signal.SIGALRM, self.tick)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
        return self

    def tick(self, _signal, _frame):
        self.count += 1

    def __exit__(self, *_exception):
        signal.setitimer(signal.ITIMER_REAL, 0)
        return False


def raw(name, *arguments):
    """One call of the C library; any error is an exception, EINTR included."""
    result = getattr(libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {errno.errorcode.get(number, number)}")
    return result


def raw_receive(descriptor, length):
    buffer, received = ctypes.create_string_buffer(length), b""
    while len(received) < length:
        count = raw("recv", descriptor, buffer, length - len(received), 0)
        if count == 0:
            raise EOFError(f"{len(received)} of {length} bytes came")
        received += buffer.raw[:count]
    return received


def raw_send(descriptor, text):
    while text:
        text = text[raw("send", descriptor, text, len(text), 0):]


def serve_quiet(port, secret):
    """Every kind of wait once: accept, poll, epoll_wait, select, recv with and without a timeout."""
    server = ends.listener(port)
    descriptor = raw("accept", server.fileno(), None, None)
    talk_quietly(descriptor, secret.encode(), first=False)
    raw("close", descriptor)


def connect_quiet(host, port, secret):
    client = ends.socket.socket(ends.family(host), ends.socket.SOCK_STREAM)
    address = ends.socket.inet_pton(client.family, host)
    if client.family == ends.socket.AF_INET:
        packed = struct.pack("=HH4s8x", client.family, ends.socket.htons(port), address)
    else:
        packed = struct.pack("=HHI16sI", client.family, ends.socket.htons(port), 0, address, 0)
    raw("connect", client.fileno(), packed, len(packed))
    talk_quietly(client.fileno(), secret.encode(), first=True)
    client.close()


def talk_quietly(descriptor, secret, first):
    """Takes turns: the end that is not the first waits while the other one begins."""
    timeout = struct.pack("@ll", int(ends.PATIENCE), 0)
    waits = [
        lambda: None,
        lambda: raw("poll", struct.pack("=ihh", descriptor, select.POLLIN, 0), 1, 60_000),
        lambda: wait_by_epoll(descriptor),
        lambda: wait_by_select(descriptor),
        lambda: raw("setsockopt", descriptor, ends.socket.SOL_SOCKET, ends.socket.SO_RCVTIMEO, timeout, len(timeout)),
    ]
    for number, wait in enumerate(waits):
        text = secret + b" %d\n" % number
        if first:
            raw_send(descriptor, text)
        wait()
        ends.expect(raw_receive(descriptor, len(text)), text)
        if not first:
            raw_send(descriptor, text)


def wait_by_epoll(descriptor):
    epoll = select.epoll()
    epoll.register(descriptor, select.EPOLLIN)
    if raw("epoll_wait", epoll.fileno(), ctypes.create_string_buffer(16), 1, 60_000) != 1:
        raise TimeoutError("epoll_wait")


def wait_by_select(descriptor):
    waited = bytearray(128)
    waited[descriptor // 8] |= 1 << descriptor % 8
    raw("select", descriptor + 1, bytes(waited), None, None, None)


ends.main({"timer": serve_timer, "quiet": serve_quiet}, {"timer": connect_timer, "quiet": connect_quiet})
