"""Descriptors that move between processes or numbers while their connection is fresh.

Modes of the server: `echo` as it is; `fork`: a child serves, the parent closes its copy at once; `pass`: another
process serves, which gets the descriptor over a Unix socket; `exec`: another interpreter serves.
Modes of the client: `talk` as it is; `exec`, `pass` and `fork` likewise; `dup`: the connection moves to another number; `threads`:
hundreds of threads wait while one of them talks.
"""

import os
import sys
import threading

import ends

MESSAGES = 5
MOVED = 100
THREADS = 500
STACK = 65536


def accept(port):
    connection, _ = ends.listener(port).accept()
    return connection


def join(host, port):
    """Unlike `ends.connect` a socket that blocks in its calls: Python's timeouts would make it non-blocking."""
    sock = ends.socket.socket(ends.family(host), ends.socket.SOCK_STREAM)
    sock.connect((host, port))
    return sock


def talk(sock, secret):
    for number in range(MESSAGES):
        ends.ask(sock, f"{secret} {number}\n".encode())
    sock.close()


def in_a_child(work):
    """Forks; `work` is the child's. Gives its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return child


def must_succeed(child):
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise ChildProcessError(f"wait status {status}")


def by_fork(sock, work):
    child = in_a_child(lambda: work(sock))
    sock.close()
    must_succeed(child)


def by_passing(make, work):
    """The other process is there before there is a connection."""
    here, there = ends.socket.socketpair(ends.socket.AF_UNIX, ends.socket.SOCK_STREAM)

    def take():
        here.close()
        _, descriptors, _, _ = ends.socket.recv_fds(there, 1, 1)
        work(ends.socket.socket(fileno=descriptors[0]))

    child = in_a_child(take)
    there.close()
    sock = make()
    ends.socket.send_fds(here, [b"x"], [sock.fileno()])
    sock.close()
    must_succeed(child)


def by_exec(sock, what, secret):
    sock.set_inheritable(True)
    os.execv(sys.executable, [sys.executable, sys.argv[0], "go-on", what, str(sock.fileno()), secret])


def by_another_number(host, port, secret):
    sock = join(host, port)
    os.dup2(sock.fileno(), MOVED)
    sock.close()
    talk(ends.socket.socket(fileno=MOVED), secret)


def among_threads(host, port, secret):
    threading.stack_size(STACK)
    over = threading.Event()
    crowd = [threading.Thread(target=over.wait) for _ in range(THREADS)]
    for thread in crowd:
        thread.start()
    try:
        failures = []
        talker = threading.Thread(target=lambda: failures.append(attempt(host, port, secret)))
        talker.start()
        talker.join()
        if failures != [None]:
            raise failures[0]
    finally:
        over.set()
        for thread in crowd:
            thread.join()


def attempt(host, port, secret):
    try:
        talk(join(host, port), secret)
    except OSError as failure:
        return failure
    return None


if sys.argv[1] == "go-on":
    _, _, what, number, secret = sys.argv
    continued = ends.socket.socket(fileno=int(number))
    ends.echo(continued) if what == "echo" else talk(continued, secret)
else:
    ends.main(
        {
            "echo": lambda port, _: ends.echo(accept(port)),
            "fork": lambda port, _: by_fork(accept(port), ends.echo),
            "pass": lambda port, _: by_passing(lambda: accept(port), ends.echo),
            "exec": lambda port, secret: by_exec(accept(port), "echo", secret),
        },
        {
            "fork": lambda host, port, secret: by_fork(join(host, port), lambda sock: talk(sock, secret)),
            "pass": lambda host, port, secret: by_passing(
                lambda: join(host, port), lambda sock: talk(sock, secret)
            ),
            "exec": lambda host, port, secret: by_exec(join(host, port), "talk", secret),
            "talk": lambda host, port, secret: talk(join(host, port), secret),
            "dup": by_another_number,
            "threads": among_threads,
        },
    )
