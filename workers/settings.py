"""Settings: read from the environment with the prefix `JOURNEYS_`, and from one file that says the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from workers.settings_file import FILE_NAME, TEMPORAL_SECRETS, SettingsFile, of_a_stranger, read_settings_file
from workflows.errors import DefinitionError, Fault
from workflows.scalars import Zone, duration

PREFIX = "JOURNEYS_"
HOME_NAME = ".journeys"

_JSON: dict[str, tuple[type, str]] = {
    "table_options": (dict, 'one JSON object of strings, such as {"AWS_REGION": "eu-west-3"}'),
    "webpush_hosts": (list, 'a JSON list of strings, such as ["push.example.com"]'),
    "webhook_hosts": (list, 'a JSON list of strings, such as ["crm.internal"]'),
}
"""The settings that are JSON, and how each is written."""

LogUsers: TypeAlias = Literal["plain", "hashed", "omitted"]
"""How logs show users."""


class Settings(BaseSettings):
    """Every setting, with its default. The environment wins over the file, which `load_settings` reads."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True, populate_by_name=True
    )

    home: Path = Path(HOME_NAME)
    """Folder of all that the embedded defaults keep; found upwards from the current folder, as git finds its own."""
    settings_file: Path | None = None
    """File of settings, lines of `NAME=value`, of `JOURNEYS_*` and `TEMPORAL_*`; left out: `settings.env` in the home,
    where there is one. The environment wins over it."""
    database: SecretStr | None = None
    """Address of catalogue and ledger, such as `postgresql://user:password@host/name`; left out: SQLite in the home."""
    tables: str | None = None
    """Folder of the audience tables, or an address such as `s3://bucket/tables`; left out: `tables` in the home."""
    table_options: Annotated[dict[str, SecretStr] | None, NoDecode] = None
    """Credentials and options of the object store that holds the tables, as one JSON object of strings."""
    timezone: Zone = "UTC"
    """Zone of calendar days where a segment or journey names none."""
    freshness_seconds: float = Field(default=60, ge=0)
    """How old a split's membership may be for what others changed; 0 for exact at arrival."""
    membership_megabytes: int = Field(default=512, ge=1)
    """Most memory that memberships may hold; the least recently used leaves first."""
    column_megabytes: int = Field(default=256, ge=0)
    """Most memory that columns of the tables may hold for the evaluations to come; what does not fit is scanned each
    time; 0 keeps none."""
    profile_megabytes: int = Field(default=256, ge=0)
    """Largest table of users or devices whose rows a worker keeps in memory while it is asked for many; larger ones are
    scanned."""
    push_provider: str = "outbox"
    """Provider of devices that name none: `outbox`, or one that is set up below."""
    push_patience_seconds: float = Field(default=3_600, gt=0)
    """Longest time for which a push is tried again; a message's time to live may be shorter."""
    push_keep_off: bool = True
    """Whether marketing pushes keep off the two minutes around each quarter hour, when everybody sends; the outbox's
    and transactional ones never do."""
    frequency_cap: str | None = None
    """Marketing pushes one user may get over all journeys, such as `3/7d`: 3 in any 7 days; left out: no cap."""
    control_group_percent: float = Field(default=0, ge=0, le=15)
    """Percent of all users, by a hash of their ids, who get no marketing push: what pushes are worth shows in them."""
    push_ca_file: Path | None = None
    """Certificates to trust beside the system's, for providers behind a gateway of one's own."""
    fcm_credentials: Path | None = None
    """Service account of Firebase, a JSON file. Sets up the provider `fcm`."""
    fcm_base_url: str | None = None
    """Address of FCM; left out: Google's."""
    apns_key: Path | None = None
    """Apple's token signing key, a .p8 file. Sets up the provider `apns`, together with the next three."""
    apns_key_id: str | None = None
    """The key's id."""
    apns_team_id: str | None = None
    """The team's id."""
    apns_topic: str | None = None
    """The application's bundle id."""
    apns_environment: Literal["production", "sandbox"] = "production"
    """Which of Apple's services."""
    apns_base_url: str | None = None
    """Address of APNs; left out: Apple's."""
    webpush_key: Path | None = None
    """VAPID private key, a PEM file. Sets up the provider `webpush`, together with the next."""
    webpush_subject: str | None = None
    """Who sends, as `mailto:` or `https:` address (RFC 8292, section 2.1)."""
    webpush_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts that subscriptions may name, as a JSON list, beside the browsers' own services."""
    webhook_url: str | None = None
    """Where the provider `webhook` posts. Sets it up, together with the next."""
    webhook_secret: SecretStr | None = None
    """Signs what is posted, by the provider and by the element `webhook`."""
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts inside the network that the element `webhook` may reach, as a JSON list; all outside it may be reached."""
    pushwoosh_application: str | None = None
    """Application code at Pushwoosh. Sets up the provider `pushwoosh`, together with the next."""
    pushwoosh_token: SecretStr | None = None
    """API token at Pushwoosh."""
    pushwoosh_base_url: str | None = None
    """Address of Pushwoosh's API; left out: its own."""
    payload_keys: Path | None = None
    """File of `id:key` lines, each key the base64 of 32 bytes: what Temporal keeps is encrypted with the first (AES-256
    in GCM), and decrypted with any."""
    payload_compression: int | None = Field(default=None, ge=0)
    """Payloads over this many bytes are compressed; 0 for none; left out: 300 with keys, none without."""
    id_key: SecretStr | None = Field(default=None, min_length=16)
    """Secret of 16 characters at least: workflow ids and search attributes then carry an HMAC in place of a user's id.
    Must not change while users are inside."""
    codec_token: SecretStr | None = None
    """What clients of `journeys codec-server` have to send as bearer token; left out: none, on loopback only."""
    sandbox: bool = False
    """Whether workers run workflow code in Temporal's sandbox: safer while changing it, and slower."""
    pollers: int = Field(default=20, ge=1)
    """Polls for tasks kept open, of each kind and queue. More than the SDK's 5 gave up to half more throughput."""
    cached_workflows: int = Field(default=2_000, ge=0)
    """Runs kept in memory between their tasks; 0 replays every run at every task, as tests do."""
    concurrent_activities: int = Field(default=200, ge=1)
    """Activities running at once, of each kind and queue."""
    drain_seconds: float = Field(default=30, ge=0)
    """How long a stopping worker lets activities finish."""
    build_id: str | None = None
    """Version of the worker's code. Turns on Temporal's worker versioning; left out: every worker takes every run."""
    deployment: str = "journeys"
    """Name of the worker deployment that the build belongs to."""
    health_address: str | None = None
    """Where a worker answers /healthz, /readyz and /metrics, such as `127.0.0.1:9464`; left out: nowhere."""
    log_format: Literal["text", "json"] = "text"
    """Form of a worker's log lines."""
    log_users: LogUsers = "hashed"
    """How a worker's logs show user ids: `plain`, `hashed` by SHA-256, or `omitted`."""
    tracing: str | None = None
    """Where a worker sends OpenTelemetry spans: an OTLP/HTTP address, such as `http://127.0.0.1:4318`."""
    server: Path | None = None
    """The `temporal` program to start as the embedded server; left out: the one that is installed, then the path."""

    @field_validator("frequency_cap")
    @classmethod
    def _readable_cap(cls, value: str | None) -> str | None:
        if value is not None:
            number, slash, period = value.partition("/")
            if not (slash and number.isascii() and number.isdigit() and int(number) > 0):
                raise ValueError("a cap is written 3/7d: how many, and in which period")
            duration(period)
        return value

    @field_validator("health_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value:
            host, _, port = value.rpartition(":")
            if not (host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
                raise ValueError("an address is written 127.0.0.1:9464: host and port")
        return value or None

    @field_validator("tracing")
    @classmethod
    def _http_address(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("an OTLP/HTTP address begins with http:// or https://")
        return value or None

    @field_validator("table_options", "webpush_hosts", "webhook_hosts", mode="before")
    @classmethod
    def _json_of_strings(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        wanted, form = _JSON[info.field_name or ""]
        inside = found.values() if isinstance(found, dict) else found
        if not isinstance(found, wanted) or not all(isinstance(one, str) for one in inside):
            raise ValueError(f"write {form}")
        return found

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of the providers that are set up; the outbox always is."""
        found = {
            "fcm": self.fcm_credentials,
            "apns": self.apns_key,
            "webpush": self.webpush_key,
            "webhook": self.webhook_url,
            "pushwoosh": self.pushwoosh_application,
        }
        return ("outbox", *(name for name, set_up in found.items() if set_up is not None))

    @model_validator(mode="after")
    def _known_provider(self) -> Settings:
        if self.push_provider not in self.providers:
            known = ", ".join(self.providers)
            raise ValueError(f"JOURNEYS_PUSH_PROVIDER is {self.push_provider!r}; set up are: {known}")
        return self

    @property
    def freshness(self) -> timedelta:
        """`freshness_seconds` as a duration."""
        return timedelta(seconds=self.freshness_seconds)

    @property
    def push_patience(self) -> timedelta:
        """`push_patience_seconds` as a duration."""
        return timedelta(seconds=self.push_patience_seconds)

    @property
    def database_url(self) -> str:
        """The address of catalogue and ledger."""
        if self.database is not None:
            return self.database.get_secret_value()
        return f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def tables_root(self) -> str:
        """Where the audience tables are."""
        return self.tables or str(self.home / "tables")

    @property
    def storage_options(self) -> dict[str, str] | None:
        """`table_options`, readable."""
        if self.table_options is None:
            return None
        return {name: value.get_secret_value() for name, value in self.table_options.items()}

    @property
    def snapshots(self) -> Path:
        """Where evaluated audiences are kept."""
        return self.home / "snapshots"

    @property
    def rejects(self) -> Path:
        """Where imports write the rows that they reject."""
        return self.home / "rejects"

    @property
    def schemas(self) -> Path:
        """Where the JSON Schemas of documents are kept for editors."""
        return self.home / "schema"

    @property
    def temporal_program(self) -> str:
        """The `temporal` program: the one set, the one installed beside this Python, or the one on the path."""
        beside = Path(sys.executable).parent / "temporal"
        found = str(self.server) if self.server else str(beside) if beside.exists() else shutil.which("temporal")
        return found or "temporal"


def load_settings(**given: Any) -> Settings:
    """Read the settings: those given win over the environment, and the environment over the file.

    Args:
        given: Settings that win.

    Returns:
        The settings, the home resolved.

    Raises:
        DefinitionError: With a fault for each setting that is wrong, named as its environment variable, and for each
            line of the file that cannot be used.
    """
    file = _settings_file(given)
    faults = list(file.faults) if file else []
    for name in Settings.model_fields:
        variable = _variable(name)
        if file and variable in file.lines and variable not in os.environ:
            given.setdefault(name, file.lines[variable].value)
    if not os.environ.get(_variable("home")):
        given.setdefault("home", find_home(Path.cwd()))
    try:
        settings = Settings(**given)
    except ValidationError as error:
        faults += [_fault(dict(one)) for one in error.errors()]
    if faults:
        raise DefinitionError([_placed(fault, file) for fault in faults])
    home = settings.home.expanduser().resolve()
    return settings.model_copy(update={"home": home, "settings_file": file.path.resolve() if file else None})


def _settings_file(given: Mapping[str, Any]) -> SettingsFile | None:
    """Read the file that is named, or that of the home where there is one."""
    known = frozenset(map(_variable, Settings.model_fields)) - {_variable("settings_file")}
    if named := given.get("settings_file") or os.environ.get(_variable("settings_file")):
        return read_settings_file(Path(named).expanduser(), known)
    home = given.get("home") or os.environ.get(_variable("home")) or find_home(Path.cwd())
    path = Path(home).expanduser() / FILE_NAME
    if not path.is_file():
        return None
    found = read_settings_file(path, known)
    faults = [*of_a_stranger(path), *found.faults]
    if _variable("home") in found.lines:
        said = "a file that was found in the home cannot say where the home is: say it in the environment"
        faults.append(_wrong(_variable("home"), said))
    return found._replace(faults=faults)


def _placed(fault: Fault, file: SettingsFile | None) -> Fault:
    """Tell the line of a fault, where the value came from the file."""
    if file is None or fault.file or fault.path in os.environ or fault.path not in file.lines:
        return fault
    return fault.model_copy(update={"file": str(file.path), "line": file.lines[fault.path].number})


def _variable(name: str) -> str:
    return f"{PREFIX}{name}".upper()


def find_home(start: Path) -> Path:
    """Find the home upwards from a folder; where there is none, it will be made in that folder."""
    for folder in (start, *start.parents):
        if (folder / HOME_NAME).is_dir():
            return folder / HOME_NAME
    return start / HOME_NAME


def origin_of(name: str, settings: Settings) -> str:
    """Tell where a setting's value comes from: the name of its variable, the path of the file, or `default`."""
    variable = _variable(name)
    if variable in os.environ:
        return variable
    return str(settings.settings_file) if variable in lines_of(settings) else "default"


def lines_of(settings: Settings) -> dict[str, str]:
    """Give what the file of settings says, by the variable's name."""
    if settings.settings_file is None:
        return {}
    file = read_settings_file(settings.settings_file, frozenset(map(_variable, Settings.model_fields)))
    return {name: line.value for name, line in file.lines.items()}


def temporal_environment(settings: Settings) -> dict[str, str]:
    """Give the environment in which Temporal's own configuration is read: the process's, over the file's lines."""
    return {**{name: value for name, value in lines_of(settings).items() if not name.startswith(PREFIX)}, **os.environ}


def child_environment(settings: Settings) -> dict[str, str]:
    """Give the environment for a program started beside this one, so that both use one home and one file."""
    told = {"home": settings.home, "settings_file": settings.settings_file}
    return {**os.environ, **{_variable(name): str(path) for name, path in told.items() if path is not None}}


def secret_variables() -> frozenset[str]:
    """Name the variables whose values are secret, ours and Temporal's."""
    return TEMPORAL_SECRETS | {_variable(name) for name in Settings.model_fields if _is_secret(name)}


def _is_secret(name: str) -> bool:
    return "SecretStr" in str(Settings.model_fields[name].annotation)


def _fault(error: dict[str, Any]) -> Fault:
    """Word one refusal; what is secret is told without quoting it."""
    said = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # a rule over several settings, whose input is all of them: the message names the variable
        return _wrong(next(iter(re.findall(rf"{PREFIX}[A-Z_]+", said)), PREFIX), said)
    name = str(error["loc"][0])
    return _wrong(_variable(name), f"{'the value' if _is_secret(name) else repr(error['input'])} is refused: {said}")


def _wrong(variable: str, message: str) -> Fault:
    return Fault(code="wrong-setting", path=variable, message=message, hint="see: journeys settings")
