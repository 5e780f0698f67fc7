"""Payloads are encrypted and compressed in known layouts, with keys that rotate; what is unreadable is refused."""

from __future__ import annotations

import asyncio
import base64
import os
import zlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter

from workers.codec import JourneysCodec, KeyMissing, Unreadable, data_converter, open_codec, read_keys
from workers.settings import Settings
from workflows.errors import NotFoundError, RefusedError, as_application_error

USER = "annabelle@example.org"
TEXT = "Special offer for you alone"


def key_line(name: str) -> str:
    return f"{name}:{base64.b64encode(os.urandom(32)).decode()}\n"


def write_keys(folder: Path) -> Path:
    """Write a file of two keys."""
    path = folder / "payload.keys"
    path.write_text(f"# newest first\n{key_line('2026-02')}\n{key_line('2026-01')}")
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path)


def codec_of(path: Path, compress_over: int = 0) -> JourneysCodec:
    return JourneysCodec(read_keys(path), compress_over)


async def test_payloads_come_back_whole_and_say_nothing(keys: Path) -> None:
    """Decoding gives what was encoded, byte for byte; encoded, nothing of it can be found, and no two are alike."""
    codec = codec_of(keys, compress_over=100)
    given_ = [
        Payload(metadata={"encoding": b"json/plain"}, data=text.encode()) for text in (TEXT, "", TEXT * 100, "é" * 300)
    ]
    encoded = await codec.encode([*given_, given_[0]])
    assert await codec.decode(encoded) == [*given_, given_[0]]
    for payload in encoded:
        assert payload.metadata["encoding"] == b"binary/encrypted"
        assert payload.metadata["encryption-key-id"] == b"2026-02"
        assert b"json/plain" not in payload.SerializeToString()
        assert TEXT.encode() not in payload.data
    assert encoded[0] != encoded[-1]
    assert len(encoded[2].data) < len(given_[2].data) / 5


async def test_the_layouts_are_those_of_temporals_samples(keys: Path) -> None:
    """A stranger with the key reads it: 12 bytes of nonce, then AES-256-GCM over the payload, inside it zlib's own."""
    (encoded,) = await codec_of(keys, compress_over=100).encode([Payload(data=TEXT.encode() * 50)])
    secret = base64.b64decode(keys.read_text().splitlines()[1].split(":")[1])
    inner = Payload.FromString(AESGCM(secret).decrypt(encoded.data[:12], encoded.data[12:], None))
    assert inner.metadata["encoding"] == b"binary/zlib"
    assert Payload.FromString(zlib.decompress(inner.data)).data == TEXT.encode() * 50


async def test_compression_alone(keys: Path) -> None:
    """Without keys, large payloads are compressed where that pays, and all others are sent as they are."""
    codec = JourneysCodec(None, compress_over=100)
    small, large, noise = Payload(data=b"x" * 100), Payload(data=b"x" * 101), Payload(data=os.urandom(500))
    encoded = await codec.encode([small, large, noise])
    assert [one.metadata.get("encoding") for one in encoded] == [None, b"binary/zlib", None]
    assert (encoded[0], encoded[2]) == (small, noise)
    assert await codec.decode(encoded) == [small, large, noise]


async def test_keys_rotate(keys: Path) -> None:
    """A new key on top encrypts from then on; what older keys encrypted, and what nobody did, is still read."""
    old = codec_of(keys)
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"before there were keys"')
    (before,) = await old.encode([plain])
    keys.write_text(key_line("2026-03") + keys.read_text())
    new = codec_of(keys)
    (after,) = await new.encode([plain])
    assert after.metadata["encryption-key-id"] == b"2026-03"
    assert await new.decode([before, after, plain]) == [plain, plain, plain]
    with pytest.raises(KeyMissing) as missing:
        await old.decode([after])
    (fault,) = missing.value.faults
    assert fault.code == "key-missing"
    for word in ("'2026-03'", "'2026-02', '2026-01'", str(keys), "JOURNEYS_PAYLOAD_KEYS"):
        assert word in f"{fault.message} {fault.hint}"
    with pytest.raises(KeyMissing, match=r"'2026-03'.*has: none"):
        await JourneysCodec(None).decode([after])


async def test_what_was_tampered_with_is_refused(keys: Path) -> None:
    """A changed byte, a cut payload, another key of the same id, and a payload that unpacks to no end are refused."""
    codec = codec_of(keys)
    (good,) = await codec.encode([Payload(data=TEXT.encode())])
    changed = bytes([good.data[20] ^ 1])
    for data in (good.data[:20] + changed + good.data[21:], good.data[:30], good.data[:5], b""):
        with pytest.raises(Unreadable, match="2026-02"):
            await codec.decode([Payload(metadata=good.metadata, data=data)])
    keys.write_text(key_line("2026-02"))
    with pytest.raises(Unreadable, match="2026-02"):
        await codec_of(keys).decode([good])
    zipped = {"encoding": b"binary/zlib"}
    bomb = zlib.compress(Payload(data=bytes(65 << 20)).SerializeToString())
    for data in (bomb, b"", b"no zlib", zlib.compress(b"\xff\xff no payload")):
        with pytest.raises(Unreadable):
            await codec.decode([Payload(metadata=zipped, data=data)])


@given(st.binary(max_size=200), st.sampled_from([b"binary/encrypted", b"binary/zlib", b"x"]), st.binary(max_size=9))
def test_no_payload_makes_a_traceback(data: bytes, encoding: bytes, key_id: bytes) -> None:
    """Whatever a payload holds, it is decoded, or refused by one of our errors."""
    codec = JourneysCodec(None)
    payload = Payload(metadata={"encoding": encoding, "encryption-key-id": key_id}, data=data)
    try:
        assert len(asyncio.run(codec.decode([payload]))) == 1
    except (KeyMissing, Unreadable):
        assert encoding != b"x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# only a remark\n", "holds no key"),
        ("no colon", "line 1 is not of the form id:key"),
        ("a:c2hvcnQ=", "line 1: the key 'a' is not the base64 of 32 bytes"),
        ("a:====", "line 1: the key 'a' is not the base64 of 32 bytes"),
        (f"a:{'A' * 43}=\na:{'B' * 43}=", "line 2: the id 'a' is given twice"),
        ("ä b:c", "line 1 is not of the form id:key"),
    ],
)
def test_a_wrong_file_of_keys_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A file of keys that cannot be used is refused with its line, and no key is quoted."""
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(RefusedError) as caught:
        open_codec(Settings(home=tmp_path, payload_keys=path))
    assert said in caught.value.message
    assert "JOURNEYS_PAYLOAD_KEYS" in caught.value.message
    assert all(line.partition(":")[2] not in caught.value.message for line in text.splitlines() if ":" in line)
    with pytest.raises(RefusedError, match="No such file"):
        read_keys(tmp_path / "absent")


def test_settings_choose_the_codec(tmp_path: Path, keys: Path) -> None:
    """Without settings there is no codec; compression has a default with keys only, and either can be had alone."""
    assert open_codec(Settings(home=tmp_path)) is None
    assert open_codec(Settings(home=tmp_path, payload_compression=0)) is None
    alone = open_codec(Settings(home=tmp_path, payload_compression=10))
    assert alone is not None
    assert alone.keys is None
    both = open_codec(Settings(home=tmp_path, payload_keys=keys))
    assert both is not None
    assert both.keys is not None
    assert repr(both.keys).count("AESGCM") == 0


async def test_failures_are_encrypted_too(keys: Path) -> None:
    """A failure's message, trace and details are encrypted with keys, and come back whole."""
    converter: DataConverter = data_converter(codec_of(keys))
    failure = Failure()
    try:
        raise as_application_error(NotFoundError(f"no user {USER}"))
    except Exception as error:
        await converter.encode_failure(error, failure)
    assert USER.encode() not in failure.SerializeToString()
    assert b"test_codec" not in failure.SerializeToString()
    back = await converter.decode_failure(failure)
    assert USER in str(back)
