"""An authority of our own, with what it signs: so that peers on loopback speak TLS as the real services do."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=7)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as files for programs and for Python.

    Attributes:
        certificate_file: PEM, the authority's certificate behind it.
        key_file: PEM, PKCS #8, not encrypted.
    """

    certificate_file: Path
    key_file: Path

    def context(self, *protocols: str) -> ssl.SSLContext:
        """Make the context of a server that shows this certificate, offering protocols by ALPN (`h2`, `http/1.1`)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate_file, self.key_file)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


@dataclass(frozen=True)
class Authority:
    """A certificate authority for one folder of tests.

    Attributes:
        folder: Where everything that it signs is written.
        ca_file: Its certificate, PEM: what a client under test is told to trust.
        certificate: The same.
        key: What it signs with.
    """

    folder: Path
    ca_file: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def client_context(self, *protocols: str) -> ssl.SSLContext:
        """Make the context of a client that trusts this authority only."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def make_authority(folder: Path) -> Authority:
    """Make an authority that keeps its files in a folder.

    Args:
        folder: Made where it is missing.

    Returns:
        The authority; `ca_file` is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("authority of the tests")
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    ca_file = folder / "authority.pem"
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, ca_file, certificate, key)


def server_certificate(authority: Authority, *hosts: str, name: str = "server") -> Certificate:
    """Sign a certificate for a server, which a client may show too.

    Args:
        authority: Who signs.
        hosts: Names and addresses it is for; none for `localhost` and 127.0.0.1.
        name: What its files are called in the authority's folder.

    Returns:
        Where certificate and key are.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = hosts or ("localhost", "127.0.0.1")
    certificate = (
        _builder(_name(names[0]), authority.certificate.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in names]), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    made = Certificate(authority.folder / f"{name}.pem", authority.folder / f"{name}.key")
    chain = (certificate, authority.certificate)
    made.certificate_file.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
    made.key_file.write_bytes(private_pem(key))
    return made


def signing_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key: what Apple's .p8 files hold, and what VAPID signs with."""
    return ec.generate_private_key(ec.SECP256R1())


def account_key() -> rsa.RSAPrivateKey:
    """Make an RSA key, as Google's service accounts have one."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(key: PrivateKey) -> bytes:
    """Write a private key as PKCS #8, as Apple and Google hand theirs out."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: PrivateKey) -> bytes:
    """Write the public half of a key."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
    )
