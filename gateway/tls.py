"""TLS for callers: one certificate chain and its key, by the standard library.

Law: a chain and key that do not serve together are told with the file at fault and the remedy, before anything uses
them. A renewed pair is a new context, so that a bad file never leaves half of itself in the one in force; it is read
apart from all calls, whose certificate stays until the files have answered. What a TLS transport hides of its progress
is read from the kernel.
"""

import asyncio
import fcntl
import socket
import ssl
import sys
import termios
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from gateway import files
from gateway.files import Anew, Readers, Unanswered, opening

log = structlog.get_logger("sluiceway.tls")

_ACKNOWLEDGED = 120
"""Where Linux' `struct tcp_info` counts the bytes that the other side has acknowledged."""

_DECRYPT = "write the key without a passphrase, readable by the gateway only: nobody is there to type it in"


class CertificateError(Exception):
    """The files are of no use; `setting` is `cert` or `key`, whichever is at fault."""

    def __init__(self, setting: str, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.setting = setting
        self.message = message
        self.remedy = remedy


class ServerContext(ssl.SSLContext):
    """A context for callers. `pair`: tells its chain and key from others, which the library does not: their SHA-256."""

    pair = b""


def server_context(cert: Path, key: Path) -> ServerContext:
    """Return a context that serves HTTP/1.1 over TLS 1.2 or later. Raises CertificateError."""
    chain = _content("cert", cert)
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise CertificateError("cert", f"{cert} holds no certificate", "name a PEM file of the chain, our own first")
    private = _content("key", key)
    if b"PRIVATE KEY-----" not in private:
        raise CertificateError("key", f"{key} holds no private key", "name a PEM file of the certificate's key")
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.pair = sha256(chain + private).digest()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    encrypted = False

    def passphrase() -> str:
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        context.load_cert_chain(cert, key, password=passphrase)  # without one, OpenSSL would ask the terminal
    except OSError as error:
        raise _fault(cert, key, error, encrypted=encrypted) from error
    return context


def _content(setting: str, path: Path) -> bytes:
    try:
        return opening(path).read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise CertificateError(setting, message, "name a file that the gateway may read") from error


def _fault(cert: Path, key: Path, error: OSError, *, encrypted: bool) -> CertificateError:
    """Say which of two readable files is at fault."""
    if encrypted:
        return CertificateError("key", f"{key} is encrypted", _DECRYPT)
    reason = getattr(error, "reason", None) or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return CertificateError("key", f"{key} is not the key of {cert}", "name the key the certificate was made for")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except OSError:
        return CertificateError("cert", f"{cert} holds no valid certificate ({reason})", "name a PEM file of the chain")
    return CertificateError("key", f"{key} cannot be used with {cert} ({reason})", "name a PEM file of a valid key")


class Renewal:
    """The callers' certificate, read anew whenever that is asked for. `use`: is given each context that serves.

    `first`: the one that is in force at the start, if any. Only a pair that differs is told in the log.
    """

    def __init__(self, use: Callable[[ssl.SSLContext], None], first: ServerContext | None = None) -> None:
        self._use = use
        self._told = None if first is None else first.pair
        self._pair: tuple[Path, Path] | None = None
        self._readers = Readers("the certificate in force")
        self._readings: WeakValueDictionary[tuple[Path, Path], Anew] = WeakValueDictionary()  # one that reads stays

    @property
    def late(self) -> list[Unanswered]:
        """The file of the pair that was asked for last, where it does not answer."""
        return [] if self._pair is None else self._readers.late([self._pair])

    async def renew(self, cert: Path, key: Path) -> None:
        """Read a pair for the callers who come from now on; a useless one changes nothing, and is told in the log.

        Where its files are late, they are used when they are there, if no other pair was asked for by then.
        """
        self._pair = (cert, key)
        anew = self._readings.get((cert, key))
        if anew is None:
            anew = self._readings[cert, key] = Anew(partial(self._read, cert, key), "renew the certificate")
        await asyncio.wait({anew.ask()}, timeout=files.LATE)

    async def _read(self, cert: Path, key: Path) -> None:
        try:
            context = await self._readers.of(cert, key).read(partial(server_context, cert, key))
        except CertificateError as error:
            log.error("the certificate in force stays", why=str(error))  # noqa: TRY400 - no traceback: a file is at fault
        except Exception:
            log.exception("the certificate in force stays")
        else:
            if self._pair == (cert, key):
                self._use(context)
                if context.pair != self._told:
                    self._told = context.pair
                    log.info("certificate renewed", cert=str(cert))


def unread(transport: asyncio.Transport, *, secure: bool) -> tuple[int, ...]:
    """Return how many bytes that were written to a caller are here still; over TLS with a mark that moves too.

    TLS hands all to a transport that it shows to nobody. Linux tells the bytes not yet acknowledged, and those that
    were: as long as the second grows, the caller reads.
    """
    kept = transport.get_write_buffer_size()
    if not secure or sys.platform != "linux":
        return (kept,)
    caller = transport.get_extra_info("socket")
    flying = bytearray(4)
    fcntl.ioctl(caller.fileno(), termios.TIOCOUTQ, flying)
    told = caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED + 8)
    return kept + int.from_bytes(flying, sys.byteorder), int.from_bytes(told[_ACKNOWLEDGED:], sys.byteorder)


def unheard(transport: asyncio.BaseTransport) -> int:
    """Return how many bytes a caller has sent that the kernel has and nobody has read yet."""
    waiting = bytearray(4)
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, waiting)
    return int.from_bytes(waiting, sys.byteorder)
