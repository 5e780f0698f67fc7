"""What a Temporal cluster is given to keep: payloads compressed, then encrypted with keys it never has.

An encrypted payload is laid out as in Temporal's own encryption samples (samples-go, samples-python and others, folder
`encryption`), so that a codec of another language reads it: metadata `encoding: binary/encrypted` and
`encryption-key-id`, data = 12 bytes of nonce, then AES-256-GCM over the serialized payload with its tag. A compressed
one is laid out as by the Go SDK's `NewZlibCodec`: metadata `encoding: binary/zlib`, data = zlib (RFC 1950) of the
serialized payload.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from workers.settings import Settings
from workflows.errors import JourneyError, RefusedError

ENCRYPTED, ZLIB = b"binary/encrypted", b"binary/zlib"
ENCODING, KEY_ID = "encoding", "encryption-key-id"
SETTING = "JOURNEYS_PAYLOAD_KEYS"

KEY_BYTES = 32
NONCE_BYTES = 12
"""Random nonces of 96 bits serve for 2^32 payloads with one key (NIST SP 800-38D, section 8.3): rotate before."""
WORTH_COMPRESSING = 300
"""Bytes from which payloads are compressed where keys are set: smaller ones hardly shrink."""
LARGEST_BYTES = 64 << 20
"""Largest payload that is unpacked. Temporal takes 2 MiB, and what holds more than 32 times as much is an attack."""
KEY_LINE = re.compile(r"(?P<id>[A-Za-z0-9._-]{1,60}):(?P<key>[A-Za-z0-9+/=_-]+)")


class KeyMissing(JourneyError):
    """A payload was encrypted with a key that this process does not have. It heals when the key is added."""

    code = "key-missing"


class Unreadable(JourneyError):
    """A payload is damaged, or is not what it says."""

    code = "unreadable-payload"


@dataclass(frozen=True)
class PayloadKeys:
    """Keys by id.

    Attributes:
        current: The id of the key that encrypts.
        by_id: All keys, each of which decrypts what was encrypted with it.
        source: The file that they stand in, for messages.
    """

    current: str
    by_id: Mapping[str, AESGCM] = field(repr=False)
    source: str = ""


def read_keys(path: Path) -> PayloadKeys:
    """Read a file of keys.

    Args:
        path: Lines `id:base64 of 32 bytes`; blank lines and those that begin with `#` mean nothing. The first key
            encrypts, all decrypt: to rotate, put a new one on top and keep the old ones as long as runs that began
            with them are kept.

    Returns:
        The keys.

    Raises:
        RefusedError: The file cannot be read, or a line is no key. No key is quoted.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error
    found: dict[str, AESGCM] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = KEY_LINE.fullmatch(line.strip())
        if match is None:
            raise _refused(path, f"line {number} is not of the form id:key")
        try:
            key = base64.b64decode(match["key"], validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise _refused(path, f"line {number}: the key {match['id']!r} is not the base64 of {KEY_BYTES} bytes")
        if match["id"] in found:
            raise _refused(path, f"line {number}: the id {match['id']!r} is given twice")
        found[match["id"]] = AESGCM(key)
    if not found:
        raise _refused(path, "holds no key")
    return PayloadKeys(next(iter(found)), found, str(path))


def _refused(path: Path, message: str) -> RefusedError:
    return RefusedError(
        f"the file of keys {str(path)!r} ({SETTING}) {message}",
        code="wrong-keys",
        hint="make a line with: python -c \"import base64, os; print('2026-01:' + "
        'base64.b64encode(os.urandom(32)).decode())"',
    )


class JourneysCodec(PayloadCodec):
    """Compresses and encrypts what is sent to Temporal, and undoes both.

    What is not encrypted is read as it is: histories that began before there were keys go on.

    Args:
        keys: Null encrypts nothing.
        compress_over: Payloads over this many bytes are compressed where that makes them smaller; 0: none.
    """

    def __init__(self, keys: PayloadKeys | None, compress_over: int = 0) -> None:
        self.keys = keys
        self._compress_over = compress_over

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Compress and encrypt payloads."""
        return [self._encoded(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Undo what `encode` did, whatever of it was done.

        Raises:
            KeyMissing: A payload was encrypted with a key that is not here; says which, and where to set it.
            Unreadable: A payload is damaged.
        """
        return [self._decoded(payload) for payload in payloads]

    def _encoded(self, payload: Payload) -> Payload:
        if 0 < self._compress_over < len(payload.data):
            packed = zlib.compress(payload.SerializeToString())
            if len(packed) < len(payload.data):
                payload = Payload(metadata={ENCODING: ZLIB}, data=packed)
        if self.keys is None:
            return payload
        nonce, key = os.urandom(NONCE_BYTES), self.keys.by_id[self.keys.current]
        return Payload(
            metadata={ENCODING: ENCRYPTED, KEY_ID: self.keys.current.encode()},
            data=nonce + key.encrypt(nonce, payload.SerializeToString(), None),
        )

    def _decoded(self, payload: Payload) -> Payload:
        # Each at most once: what claims to be nested deeper was not made here.
        for encoding, unwrap in ((ENCRYPTED, self._decrypted), (ZLIB, _unpacked)):
            if payload.metadata.get(ENCODING) == encoding:
                try:
                    payload = Payload.FromString(unwrap(payload))
                except DecodeError as error:
                    raise Unreadable(f"a payload of encoding {encoding.decode()} holds no payload") from error
        return payload

    def _decrypted(self, payload: Payload) -> bytes:
        key_id = payload.metadata.get(KEY_ID, b"").decode(errors="replace")
        key = self.keys.by_id.get(key_id) if self.keys is not None else None
        if key is None:
            known = ", ".join(map(repr, self.keys.by_id)) if self.keys is not None else "none"
            place = f"the file {self.keys.source!r}" if self.keys is not None else "a file of keys"
            raise KeyMissing(
                f"a payload was encrypted with the key {key_id!r}, which this process does not have; it has: {known}",
                hint=f"add the line {key_id}:KEY to {place}, which the setting {SETTING} names",
            )
        try:
            return key.decrypt(payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise Unreadable(
                f"a payload does not decrypt with the key {key_id!r}: it is damaged, or was encrypted with another key "
                "of that id",
                hint=f"compare the files that the setting {SETTING} names on all machines",
            ) from error


def _unpacked(payload: Payload) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(payload.data, LARGEST_BYTES)
    except zlib.error as error:
        raise Unreadable(f"a compressed payload is damaged: {error}") from error
    if not unpacking.eof:
        raise Unreadable(f"a compressed payload is cut off, or holds over {LARGEST_BYTES >> 20} MiB")
    return found


def open_codec(settings: Settings) -> JourneysCodec | None:
    """Open the codec that the settings ask for; null for none.

    Raises:
        RefusedError: The file of keys cannot be used.
    """
    keys = read_keys(settings.payload_keys) if settings.payload_keys is not None else None
    over = settings.payload_compression
    if over is None:
        over = 0 if keys is None else WORTH_COMPRESSING
    return JourneysCodec(keys, over) if keys is not None or over else None


def data_converter(codec: JourneysCodec | None) -> DataConverter:
    """Give the pydantic converter, with a codec.

    With keys, the messages and traces of failures are encoded too, since they may quote what belongs to a user:
    Temporal's UI then shows them through a codec server only.
    """
    if codec is None:
        return pydantic_data_converter
    converter = replace(pydantic_data_converter, payload_codec=codec)
    if codec.keys is not None:
        converter = replace(converter, failure_converter_class=DefaultFailureConverterWithEncodedAttributes)
    return converter
