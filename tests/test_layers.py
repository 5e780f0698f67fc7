"""The house rules hold: imports run one way, workflows stay light, one place reads settings, locks name no host."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = ("workflows", "activities", "workers", "scripts")
"""From the lightest to the one that may import all: each imports itself and those before it."""

LIGHT = {"temporalio", "pydantic", "pydantic_core", "workflows"}
"""What workflows may import beyond the standard library; `pydantic_core` is pydantic's own."""

HEAVY = {"polars", "deltalake", "sqlalchemy", "httpx", "aiohttp"}

VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "base"}

READS_ENVIRONMENT = {
    "workers/settings.py",
    "activities/__init__.py",  # tells polars, which takes it from nowhere else, when to give memory back
    "activities/tables/reading.py",  # tells polars, which takes it from nowhere else, how much of a file to hold
}


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of the folders, by its path in the repository."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def imported(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The modules a module imports, anywhere in it, each with its line; relative names are made whole."""
    package = Path(path).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join((*above, *(node.module or "").split("."))).rstrip(".")
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("__import__", "importlib.import_module", "import_module")
            and node.args
        ):
            name = node.args[0]
            yield node.lineno, str(name.value) if isinstance(name, ast.Constant) else "<computed>"


def against_the_layers(path: str, tree: ast.Module) -> list[str]:
    """Imports that point from a layer to one above it, or from anywhere to the tests."""
    rank = LAYERS.index(path.split("/")[0])
    forbidden = {*LAYERS[rank + 1 :], "tests"}
    return [f"{path}:{line} {name}" for line, name in imported(path, tree) if name.split(".")[0] in forbidden]


def too_heavy(path: str, tree: ast.Module) -> list[str]:
    """Imports of a workflow module that are neither standard nor light."""
    allowed = LIGHT | sys.stdlib_module_names
    return [f"{path}:{line} {name}" for line, name in imported(path, tree) if name.split(".")[0] not in allowed]


def environment_reads(path: str, tree: ast.Module) -> list[str]:
    """Places where a module looks at the environment of its process."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb"):
            found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [f"{path}:{node.lineno} {a.name}" for a in node.names if a.name in ("environ", "getenv")]
    return found


def vague_names(path: str) -> list[str]:
    """Words of a module's path that say nothing of what it holds."""
    return [word for word in re.split(r"[/_.]", path) if word in VAGUE]


def test_imports_run_one_way() -> None:
    """From scripts to workers to activities to workflows: nothing points back, and nothing imports a test."""
    found = [fault for path, tree in sources(*LAYERS) for fault in against_the_layers(path, tree)]
    assert found == []


def test_workflows_import_only_what_is_light() -> None:
    """workflows/ imports the standard library, temporalio, pydantic and itself."""
    assert [fault for path, tree in sources("workflows") for fault in too_heavy(path, tree)] == []


def test_only_the_settings_read_the_environment() -> None:
    """No module but workers/settings.py looks at the environment of its process."""
    found = [fault for path, tree in sources(*LAYERS) for fault in environment_reads(path, tree)]
    assert [fault for fault in found if fault.split(":")[0] not in READS_ENVIRONMENT] == []


def test_modules_are_named_by_what_they_hold() -> None:
    """No module or package is called utils, helpers, common, manager or base."""
    paths = [path for path, _ in sources(*LAYERS, "tests")]
    assert len(paths) > 20
    assert [path for path in paths if vague_names(path)] == []


def test_importing_the_workflows_loads_nothing_heavy() -> None:
    """A fresh interpreter that imports every workflow module has loaded no tables, no SQL and no HTTP client."""
    modules = [path.removesuffix(".py").replace("/", ".") for path, _ in sources("workflows")]
    imports = "\n".join(f"import {module.removesuffix('.__init__')}" for module in modules)
    assert heavy_after(imports) == []


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nonsense"], ["settings"], ["schema", "journey"]])
def test_light_commands_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    """A command that touches no store starts without the tables', SQL's and HTTP's libraries."""
    told = f"import os; os.chdir({str(tmp_path)!r}); sys.argv = {['journeys', *words]!r}"
    assert heavy_after(f"{told}\nfrom scripts import cli; cli.run()") == []


def heavy_after(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after running some code."""
    asked = f"import sys\n{code}\nprint('loaded:', *sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("loaded:")[2].split()


SAMPLE = """\
import json, polars.selectors
from workers import settings
from ..push import sending
from ... import scripts
def later():
    import scripts.cli
    importlib.import_module("tests.conftest")
    return os.environ["HOME"], os.getenv("HOME"), environment.get("HOME")
from os import getenv, path
"""


def test_the_checks_find_what_they_look_for() -> None:
    """On a text that breaks every rule each check tells the lines: a check that finds nothing proves something."""
    path, tree = "activities/segments/base.py", ast.parse(SAMPLE)
    assert {name for _, name in imported(path, tree)} >= {"json", "polars.selectors", "activities.push", "scripts.cli"}
    assert against_the_layers(path, tree) == [
        "activities/segments/base.py:2 workers",
        "activities/segments/base.py:6 scripts.cli",
        "activities/segments/base.py:7 tests.conftest",
    ]
    assert against_the_layers("scripts/x.py", tree) == ["scripts/x.py:7 tests.conftest"]
    assert "workflows/x.py:1 polars.selectors" in too_heavy("workflows/x.py", tree)
    assert "workflows/x.py:1 json" not in too_heavy("workflows/x.py", tree)
    assert [fault.split(":")[1] for fault in environment_reads(path, tree)] == [
        "9 getenv",
        "8 os.environ",
        "8 os.getenv",
    ]
    assert vague_names(path) == ["base"]
    assert vague_names("activities/records/database.py") == []


HOSTS = re.compile(r"https?:|file:|--(extra-)?index-url|--find-links|trusted-host|@ git\+")


def tracked() -> list[str]:
    """The files of the repository; outside a checkout, nothing can be asked."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def test_what_installs_the_project_names_no_host() -> None:
    """Packages come from wherever the machine is set up to get them: lock, settings and scripts name no address."""
    installing = [
        name
        for name in tracked()
        if name.endswith((".lock", ".toml", ".cfg")) or name in ("scripts/environment", "scripts/test", ".ci/run")
    ]
    assert "pyproject.toml" in installing
    lines = [
        f"{name}: {line}"
        for name in installing
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if HOSTS.search(line)
    ]
    assert lines == []


def test_the_lock_pins_and_hashes_every_package() -> None:
    """Each package of requirements.lock has one exact version and hashes; all that pyproject asks for is there."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"\n(?=[a-z])", text) if not entry.startswith("#")]
    assert len(entries) > 30
    assert [
        entry.split("\n")[0] for entry in entries if not re.match(r"[a-z0-9-]+==\S+.*\\\n\s+--hash=sha256:", entry)
    ] == []
    locked = {entry.split("==")[0] for entry in entries}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in wanted}
    assert {"polars", "setuptools"} <= names
    assert names - locked == set()
