"""The file of settings: lines of `NAME=value`, as systemd's EnvironmentFile and Docker's --env-file read them too."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

from dotenv.parser import parse_stream

from workflows.errors import Fault
from workflows.scalars import nearest

FILE_NAME = "settings.env"
"""The file's name in the home, where no other is named."""
LARGEST = 1 << 20
"""Most bytes of a file."""

TEMPORAL = frozenset(
    {
        "TEMPORAL_ADDRESS",
        "TEMPORAL_NAMESPACE",
        "TEMPORAL_API_KEY",
        "TEMPORAL_PROFILE",
        "TEMPORAL_CONFIG_FILE",
        "TEMPORAL_CODEC_ENDPOINT",
        "TEMPORAL_CODEC_AUTH",
        "TEMPORAL_TLS",
        "TEMPORAL_TLS_CLIENT_CERT_PATH",
        "TEMPORAL_TLS_CLIENT_CERT_DATA",
        "TEMPORAL_TLS_CLIENT_KEY_PATH",
        "TEMPORAL_TLS_CLIENT_KEY_DATA",
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH",
        "TEMPORAL_TLS_SERVER_CA_CERT_DATA",
        "TEMPORAL_TLS_SERVER_NAME",
        "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION",
    }
)
"""The variables of Temporal's own environment configuration (its page "Environment configuration"); those that begin
with `TEMPORAL_GRPC_META_`, one for each header, come to them."""
TEMPORAL_HEADER = "TEMPORAL_GRPC_META_"
TEMPORAL_SECRETS = frozenset({"TEMPORAL_API_KEY", "TEMPORAL_CODEC_AUTH", "TEMPORAL_TLS_CLIENT_KEY_DATA"})


class Line(NamedTuple):
    """One setting of a file."""

    value: str
    number: int
    """Line in the file, from 1."""


class SettingsFile(NamedTuple):
    """What a file says."""

    path: Path
    lines: dict[str, Line]
    """By the variable's name."""
    faults: list[Fault]


def read_settings_file(path: Path, known: frozenset[str]) -> SettingsFile:
    """Read a file of settings. A value is taken as it stands, without anything put in for `$`.

    Args:
        path: The file, in UTF-8.
        known: The variables that it may set beside Temporal's.

    Returns:
        Its lines, with a fault for each that cannot be used. No fault quotes a value.
    """
    try:
        if path.stat().st_size > LARGEST:
            return SettingsFile(path, {}, [_wrong(path, None, f"the file is larger than {LARGEST:,} bytes")])
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return SettingsFile(path, {}, [_wrong(path, None, "the file is not UTF-8")])
    except OSError as error:
        return SettingsFile(path, {}, [_wrong(path, None, f"the file cannot be read: {error.strerror}")])
    lines: dict[str, Line] = {}
    faults: list[Fault] = []
    for found in parse_stream(io.StringIO(text)):
        blank = len(found.original.string) - len(found.original.string.lstrip())
        number = found.original.line + found.original.string.count("\n", 0, blank)
        if found.error or (found.key is not None and found.value is None):
            faults.append(_wrong(path, number, "the line cannot be read", "write NAME=value, or # before a comment"))
        elif found.key is None:
            continue
        elif found.key in lines:
            said = f"the name stands here a second time, after line {lines[found.key].number}"
            faults.append(_wrong(path, number, said, "keep one of the two", found.key))
        elif found.key in known | TEMPORAL or found.key.startswith(TEMPORAL_HEADER):
            lines[found.key] = Line(found.value or "", number)
        else:
            near = nearest(found.key, known | TEMPORAL)[:1]
            hint = (
                f"did you mean {near[0]!r}?" if near else "only JOURNEYS_* and TEMPORAL_* stand in it: see the README"
            )
            faults.append(_wrong(path, number, f"unknown setting {found.key!r}", hint, found.key))
    return SettingsFile(path, lines, faults)


def open_to_others(path: Path) -> bool:
    """Tell whether others than its owner and group can read a file."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def of_a_stranger(path: Path) -> list[Fault]:
    """Refuse a file that nobody named and that is another user's: who may write above could set anything for us."""
    if path.stat().st_uid in (0, os.geteuid()):
        return []
    hint = f"make it yours, or name it: JOURNEYS_SETTINGS_FILE={path}"
    return [_wrong(path, None, "the file belongs to another user, and was only found in the home", hint)]


def _wrong(path: Path, line: int | None, message: str, hint: str = "", name: str = "JOURNEYS_SETTINGS_FILE") -> Fault:
    return Fault(code="wrong-setting", path=name, message=message, hint=hint, file=str(path), line=line)
