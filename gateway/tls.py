"""TLS for callers: one certificate chain and its key, by the standard library.

Law: a chain and key that do not serve together are told with the file at fault and the remedy, before anything uses
them. A renewed pair is a new context, so that a bad file never leaves half of itself in the one in force. What a TLS
transport hides of its progress is read from the kernel.
"""

import asyncio
import fcntl
import socket
import ssl
import sys
import termios
from pathlib import Path

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


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return a context that serves HTTP/1.1 over TLS 1.2 or later. Raises CertificateError."""
    if b"-----BEGIN CERTIFICATE-----" not in _content("cert", cert):
        raise CertificateError("cert", f"{cert} holds no certificate", "name a PEM file of the chain, our own first")
    if b"PRIVATE KEY-----" not in _content("key", key):
        raise CertificateError("key", f"{key} holds no private key", "name a PEM file of the certificate's key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
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
        return path.read_bytes()
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
