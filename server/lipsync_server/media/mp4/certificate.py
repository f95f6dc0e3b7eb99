"""The PEM file (key and certificates) that signs finished videos: the owner's, or one made here once.

C2PA (https://spec.c2pa.org) requires a certificate that an authority issued. So this module also makes an authority for
this installation, and deletes the authority's key at once. Readers of C2PA do not know that authority: they report such
a video as valid and its signer as unknown. To be shown by name, an owner needs a certificate from a public authority.

Key and certificates are in one file, so that they always belong together. Knows X.509; does not know videos.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lipsync_server.durable import write_file

FILE = "signing.pem"
_VALID = dt.timedelta(days=3650)
# The clock of a machine that was just rented may be late.
_VALID_BEFORE = dt.timedelta(days=1)
_ALGORITHMS = {256: "es256", 384: "es384", 521: "es512"}


@dataclass(frozen=True)
class Identity:
    """A signer. certificates: PEM, leaf first. key: PEM (PKCS 8). algorithm: C2PA's name for it, such as "es256"."""

    certificates: bytes
    key: bytes
    algorithm: str


def identity_in(folder: Path) -> Path:
    """The path of this installation's own signing file in `folder`, made when it is not there; mode 600.

    When several processes start together each may make one. The last one stays, and each of them is complete.
    """
    path = folder / FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = _made()
        write_file(path, lambda file: file.write(content), mode=0o600)
    return path


def read_identity(path: Path) -> Identity:
    """The key and certificates in a PEM file. Raises ValueError or OSError with a sentence for a file that cannot
    sign."""
    content = path.read_bytes()
    certificates = x509.load_pem_x509_certificates(content)
    begin = content.find(b"-----BEGIN ", 0)
    while begin >= 0 and not content[begin:].split(b"\n", 1)[0].rstrip().endswith(b"PRIVATE KEY-----"):
        begin = content.find(b"-----BEGIN ", begin + 1)
    if begin < 0:
        raise ValueError(f"{path} holds no private key; it must hold the key and its certificates in PEM form")
    key = serialization.load_pem_private_key(content[begin:], None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _ALGORITHMS[key.curve.key_size]
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        raise ValueError(f"{path} holds a key of a kind that C2PA does not know; use an elliptic curve or RSA key")
    return Identity(b"".join(_pem(one) for one in certificates), _pem_key(key), algorithm)


def _made() -> bytes:
    """The PEM of a new key, its certificate, and the certificate of the authority that signed it."""
    begin = dt.datetime.now(dt.UTC) - _VALID_BEFORE
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = (
        _builder("Lipsync, authority of one installation", "Lipsync, authority of one installation", begin)
        .public_key(authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = (
        _builder("Lipsync, one installation", "Lipsync, authority of one installation", begin)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return _pem_key(key) + _pem(leaf) + _pem(authority)


def _builder(subject: str, issuer: str, begin: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + _VALID)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lipsync"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: "ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey") -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
