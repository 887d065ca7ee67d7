"""Signals while bytes move.

Mode `timer`: a handler runs every few milliseconds, from before the connection begins until after its end, and all
bytes are right. Mode `quiet`: nobody handles a signal, and so no call may say EINTR; the calls go to the C library
itself, because Python would try them again without a word. Whatever is done to a connection is done at its beginning:
so there is a new one for each kind of call.
"""

import ctypes
import errno
import select
import signal
import struct

import ends

CONNECTIONS = 4
MESSAGES = 4
BYTES = 65536
INTERVAL = 0.003

libc = ctypes.CDLL(None, use_errno=True)


def serve_timer(port, _secret):
    server = ends.listener(port)
    with ticking():
        for _ in range(CONNECTIONS):
            connection, _ = server.accept()
            ends.echo(connection)


def connect_timer(host, port, secret):
    bulk = ends.payload(secret, BYTES)
    with ticking() as ticks:
        for _ in range(CONNECTIONS):
            client = ends.socket.socket(ends.family(host), ends.socket.SOCK_STREAM)
            client.connect((host, port))
            for _ in range(MESSAGES):
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


def waits_of(descriptor):
    """Every kind of wait for bytes that are not there yet; what follows is a receive call."""
    timeout = struct.pack("@ll", int(ends.PATIENCE), 0)
    return {
        "recv": lambda: None,
        "recv with a timeout": lambda: raw(
            "setsockopt", descriptor, ends.socket.SOL_SOCKET, ends.socket.SO_RCVTIMEO, timeout, len(timeout)
        ),
        "poll": lambda: raw("poll", struct.pack("=ihh", descriptor, select.POLLIN, 0), 1, 60_000),
        "epoll_wait": lambda: wait_by_epoll(descriptor),
        "select": lambda: wait_by_select(descriptor),
    }


def serve_quiet(port, secret):
    server = ends.listener(port)
    for kind in waits_of(0):
        for first in (False, True):
            descriptor = raw("accept", server.fileno(), None, None)
            take_turns(descriptor, secret, kind, first)
            raw("close", descriptor)


def connect_quiet(host, port, secret):
    family = ends.family(host)
    address = ends.socket.inet_pton(family, host)
    if family == ends.socket.AF_INET:
        packed = struct.pack("=HH4s8x", family, ends.socket.htons(port), address)
    else:
        packed = struct.pack("=HHI16sI", family, ends.socket.htons(port), 0, address, 0)
    for kind in waits_of(0):
        for first in (True, False):
            client = ends.socket.socket(family, ends.socket.SOCK_STREAM)
            raw("connect", client.fileno(), packed, len(packed))
            take_turns(client.fileno(), secret, kind, first)
            client.close()


def take_turns(descriptor, secret, kind, first):
    """The end that is not the first waits while the other one begins."""
    question, answer = f"{secret} {kind}?\n".encode(), f"{secret} {kind}!\n".encode()
    if first:
        raw_send(descriptor, question)
        wait_and_expect(descriptor, kind, answer)
    else:
        wait_and_expect(descriptor, kind, question)
        raw_send(descriptor, answer)


def wait_and_expect(descriptor, kind, text):
    waits_of(descriptor)[kind]()
    ends.expect(raw_receive(descriptor, len(text)), text)


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
