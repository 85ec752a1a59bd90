"""Transports for tests: calls over them, authorities of our own, and a watch over what they leave behind."""

import asyncio
import datetime as dt
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config.settings import Backend
from gateway.upstream.transport import ERRORS, failure_of, open_transport


def opened(kind="pooled", url="http://127.0.0.1/v1", **options):
    """Open a transport as a backend with these settings has it."""
    return open_transport(Backend("a", "openai", url, transport=kind, **options))


async def begin(transport, url, body=b"{}"):
    """Post a body and return the answer once its head is there; a `url` without a path gets one."""
    place = httpx.URL(url)
    if place.path == "/":
        place = place.copy_with(path="/x")
    headers = [(b"host", place.netloc), (b"content-type", b"application/json")]
    return await transport.post(place, headers, body, lambda: None)


async def fetch(transport, url, body=b"{}"):
    """Make one call and return (status, headers, body), or the Failure that its error means."""
    try:
        answer = await begin(transport, url, body)
        parts = []
        try:
            while (part := await answer.read()) is not None:
                parts.append(part)
        finally:
            answer.close()
    except ERRORS as error:
        return failure_of(error)
    return answer.status, httpx.Headers(answer.headers), b"".join(parts)


def connections(transport):
    """Count the connections that a transport has open, of either kind."""
    return transport.open if hasattr(transport, "open") else len(transport._pool.connections)


@asynccontextmanager
async def leaving_nothing(within=10.0):
    """Fail unless the tasks and the file descriptors of this process are soon no more than before."""

    def there():
        return {"tasks": len(asyncio.all_tasks()), "files": len(os.listdir("/dev/fd"))}  # noqa: PTH208 - no paths

    (await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)).close()  # uvloop then opens a file that it keeps
    await asyncio.sleep(0.001)
    before = there()
    yield
    deadline = monotonic() + within
    while any(there()[name] > before[name] for name in before) and monotonic() < deadline:  # noqa: ASYNC110 - the kernel's
        await asyncio.sleep(0.005)
    now = there()
    assert all(now[name] <= before[name] for name in before), (before, now)


@dataclass(frozen=True)
class Certified:
    """PEM files: an authority, and a certificate of it with its key (`both`: in one file) for the name localhost."""

    ca: Path
    certificate: Path
    key: Path
    both: Path


def certified(folder):
    """Make an authority and a certificate for localhost, valid for an hour."""
    authority, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    local = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    ca = (
        _certificate(root, root, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority, hashes.SHA256())
    )
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    certificate = (
        _certificate(local, root, leaf)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(issued_by, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    files = Certified(folder / "ca.pem", folder / "cert.pem", folder / "key.pem", folder / "both.pem")
    pem = serialization.Encoding.PEM
    key = leaf.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.ca.write_bytes(ca.public_bytes(pem))
    files.certificate.write_bytes(certificate.public_bytes(pem))
    files.key.write_bytes(key)
    files.both.write_bytes(certificate.public_bytes(pem) + key)
    return files


def _certificate(subject, issuer, key):
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
    )


def _usage(*, signs):
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
