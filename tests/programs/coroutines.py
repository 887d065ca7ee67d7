"""asyncio: streams, many connections at once on one thread."""

import asyncio

import ends

CONNECTIONS = 20
MESSAGES = 10
BYTES = 32768


async def serve_all(port):
    served = asyncio.Semaphore(0)
    failures = []

    async def echo(reader, writer):
        try:
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        except Exception as failure:  # asyncio would only log it.
            failures.append(failure)
        served.release()

    server = await asyncio.start_server(echo, sock=ends.listener(port))
    async with server:
        for _ in range(CONNECTIONS):
            await asyncio.wait_for(served.acquire(), ends.PATIENCE)
    if failures:
        raise failures[0]


async def converse(host, port, secret):
    reader, writer = await asyncio.open_connection(host, port)
    for message in range(MESSAGES):
        text = f"{secret} {message}\n".encode()
        writer.write(text)
        ends.expect(await reader.readline(), text)
    bulk = ends.payload(secret, BYTES)
    writer.write(bulk)
    ends.expect(await reader.readexactly(BYTES), bulk)
    writer.close()
    await writer.wait_closed()


async def connect_all(host, port, secret):
    talks = [converse(host, port, f"{secret} {number}") for number in range(CONNECTIONS)]
    await asyncio.wait_for(asyncio.gather(*talks), ends.PATIENCE)


ends.main(
    {"echo": lambda port, _secret: asyncio.run(serve_all(port))},
    {"echo": lambda host, port, secret: asyncio.run(connect_all(host, port, secret))},
)
