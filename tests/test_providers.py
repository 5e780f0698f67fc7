"""Settings become providers: each one set up by its own, and refused with its name when something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import account_key, private_pem, signing_key
from workers.providers import delivery_rules, open_providers
from workers.settings import Settings, load_settings
from workflows.errors import DefinitionError, RefusedError


@pytest.fixture
def complete(tmp_path: Path) -> dict[str, Any]:
    """What sets up every provider."""
    (tmp_path / "apns.p8").write_bytes(private_pem(signing_key()))
    (tmp_path / "vapid.pem").write_bytes(private_pem(signing_key()))
    account = {
        "type": "service_account",
        "project_id": "shop",
        "private_key_id": "1",
        "private_key": private_pem(account_key()).decode(),
        "client_email": "push@shop.example",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    (tmp_path / "fcm.json").write_text(json.dumps(account))
    return {
        "home": tmp_path,
        "fcm_credentials": tmp_path / "fcm.json",
        "apns_key": tmp_path / "apns.p8",
        "apns_key_id": "KEYID12345",
        "apns_team_id": "TEAM123456",
        "apns_topic": "com.example.shop",
        "webpush_key": tmp_path / "vapid.pem",
        "webpush_subject": "mailto:push@shop.example",
        "webhook_url": "https://shop.example/push",
        "webhook_secret": "0123456789abcdef0123456789abcdef",
        "pushwoosh_application": "ABCDE-12345",
        "pushwoosh_token": "token",
    }


async def test_each_is_set_up_by_its_settings(complete: dict[str, Any]) -> None:
    """Complete settings open all five providers, and empty ones open none."""
    async with open_providers(Settings(**complete)) as found:
        assert sorted(found) == ["apns", "fcm", "pushwoosh", "webhook", "webpush"]
        assert {name: provider.name for name, provider in found.items()} == {name: name for name in found}
    async with open_providers(Settings(home=complete["home"])) as found:
        assert found == {}


@pytest.mark.parametrize(
    "missing", ["apns_key_id", "apns_team_id", "apns_topic", "webpush_subject", "webhook_secret", "pushwoosh_token"]
)
async def test_what_is_missing_is_named(complete: dict[str, Any], missing: str) -> None:
    """A provider that lacks one setting is refused at once, with the name of that setting."""
    settings = Settings(**{name: value for name, value in complete.items() if name != missing})
    with pytest.raises(RefusedError, match=f"JOURNEYS_{missing.upper()}"):
        async with open_providers(settings):
            pass


async def test_a_file_that_cannot_be_read_is_named(complete: dict[str, Any]) -> None:
    """A file of credentials that is not there is refused with its setting and its path."""
    with pytest.raises(RefusedError, match=r"JOURNEYS_APNS_KEY.*nowhere"):
        async with open_providers(Settings(**{**complete, "apns_key": Path("nowhere.p8")})):
            pass


def test_the_default_provider_must_be_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Devices cannot be given to a provider that is not set up, and a cap that cannot be read is refused."""
    monkeypatch.setenv("JOURNEYS_PUSH_PROVIDER", "fcm")
    with pytest.raises(DefinitionError, match="'fcm'"):
        load_settings(home=tmp_path)
    monkeypatch.setenv("JOURNEYS_PUSH_PROVIDER", "outbox")
    monkeypatch.setenv("JOURNEYS_FREQUENCY_CAP", "three a week")
    with pytest.raises(DefinitionError, match="3/7d"):
        load_settings(home=tmp_path)
    monkeypatch.setenv("JOURNEYS_FREQUENCY_CAP", "3/7d")
    cap = delivery_rules(load_settings(home=tmp_path)).cap
    assert cap is not None
    assert (cap.at_most, cap.per.days) == (3, 7)
