"""Reaching Temporal as its own environment configuration says: TLS, client certificates, API key, files."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.certificates import Authority, make_authority, server_certificate
from tests.house import House
from tests.tcp_proxy import TcpProxy
from workers.connecting import NoServer, connect
from workers.settings import Settings
from workflows.errors import RefusedError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority")


@pytest.fixture
def fronted(house: House, authority: Authority) -> TcpProxy:
    """The real server behind TLS, which asks its clients for certificates and takes those without."""
    context = server_certificate(authority).context("h2")
    context.load_verify_locations(authority.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return TcpProxy(house.address, context)


def configure(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


async def test_tls_and_client_certificate_reach_the_connection(
    house: House, fronted: TcpProxy, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an authority and a client certificate set, the server is trusted by it and is shown the certificate."""
    mine = server_certificate(authority, "worker.example", name="client")
    async with fronted:
        configure(
            monkeypatch,
            TEMPORAL_ADDRESS=fronted.address,
            TEMPORAL_NAMESPACE=house.namespace,
            TEMPORAL_TLS_SERVER_CA_CERT_PATH=authority.ca_file,
            TEMPORAL_TLS_SERVER_NAME="localhost",
            TEMPORAL_TLS_CLIENT_CERT_PATH=mine.certificate_file,
            TEMPORAL_TLS_CLIENT_KEY_PATH=mine.key_file,
        )
        client = await connect(house.settings)
        assert (await client.count_workflows()).count == 0
        assert client.namespace == house.namespace
        shown = fronted.peers[0]
        assert isinstance(shown, dict)
        assert shown["subjectAltName"] == (("DNS", "worker.example"),)


async def test_a_server_that_is_not_trusted_is_refused(
    house: House, fronted: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that nobody known signed ends the connection, with the address and what is wrong."""
    async with fronted:
        configure(monkeypatch, TEMPORAL_ADDRESS=fronted.address, TEMPORAL_TLS="true")
        with pytest.raises(NoServer, match=fronted.address) as caught:
            await connect(house.settings)
    assert "UnknownIssuer" in str(caught.value)


async def test_an_api_key_turns_tls_on_and_is_sent(
    house: House, fronted: TcpProxy, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API key goes with the client, over TLS without a further setting, as Temporal Cloud wants it."""
    async with fronted:
        configure(
            monkeypatch,
            TEMPORAL_ADDRESS=fronted.address,
            TEMPORAL_NAMESPACE=house.namespace,
            TEMPORAL_API_KEY="a-key",
            TEMPORAL_TLS_SERVER_CA_CERT_PATH=authority.ca_file,
        )
        client = await connect(house.settings)
        assert client.api_key == "a-key"
        assert (await client.count_workflows()).count == 0


async def test_a_profile_of_temporals_file_is_used(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal's own TOML file is read, and the profile that the environment names."""
    file = tmp_path / "temporal.toml"
    file.write_text(f'[profile.eu]\naddress = "{house.address}"\nnamespace = "{house.namespace}"\n')
    configure(monkeypatch, TEMPORAL_CONFIG_FILE=file, TEMPORAL_PROFILE="eu")
    client = await connect(house.settings)
    assert (client.namespace, client.service_client.config.target_host) == (house.namespace, house.address)


@pytest.mark.parametrize(
    "variables",
    [
        {"TEMPORAL_CONFIG_FILE": "wrong.toml"},
        {"TEMPORAL_PROFILE": "nowhere"},
        {"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "missing.pem"},
    ],
)
async def test_a_configuration_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """A broken file, an unknown profile or a missing certificate is refused with what Temporal's reader says."""
    (tmp_path / "wrong.toml").write_text("[profile")
    monkeypatch.chdir(tmp_path)
    configure(monkeypatch, TEMPORAL_ADDRESS="127.0.0.1:1", **variables)
    with pytest.raises(RefusedError, match="Temporal's environment configuration") as caught:
        await connect(Settings(home=tmp_path))
    assert caught.value.code == "wrong-temporal-configuration"
