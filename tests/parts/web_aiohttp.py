"""The answers of `web_asgi`, served by aiohttp: `python -m tests.parts.web_aiohttp PORT [CERTIFICATE_AND_KEY]`."""

import asyncio
import ssl
import sys

from aiohttp import web

from tests.parts.web_asgi import TICK, answer, left


async def _answer(request):
    body = await request.read()
    if request.path in left:
        return await _endless(request)
    port = request.transport.get_extra_info("peername")[1]
    status, parts, length = answer(request.path, body, port)
    if length:
        return web.Response(status=status, body=parts[0])
    streamed = web.StreamResponse()
    streamed.enable_chunked_encoding()
    await streamed.prepare(request)
    for part in parts:
        await streamed.write(part)
    await streamed.write_eof()
    return streamed


async def _endless(request):
    """Answer nothing, or without an end, until the caller leaves: the handler is then cancelled."""
    streamed = web.StreamResponse()
    try:
        if request.path == "/drip":
            await streamed.prepare(request)
        while True:
            if request.path == "/drip":
                await streamed.write(b"drip\n")
            await asyncio.sleep(TICK)
    finally:
        left[request.path] += 1


def main():
    """Serve until SIGTERM."""
    port, *certified = sys.argv[1:]
    tls = None
    if certified:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certified[0])
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", _answer)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(port),
        ssl_context=tls,
        handler_cancellation=True,
        print=None,
        shutdown_timeout=1,
    )


if __name__ == "__main__":
    main()
