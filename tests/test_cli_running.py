"""Running journeys by the command line: the embedded server, a worker, a start, and what became of everybody."""

from __future__ import annotations

import csv
import io
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Commands, Said, one_object
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS
from workers.connecting import embedded_file
from workers.embedded import EmbeddedServer
from workflows.contracts import JOURNEYS_QUEUE


def filled(folder: Path) -> Commands:
    """A folder with users, devices and the sample documents."""
    found = Commands(folder)
    found.write("users.csv", USERS)
    found.write("devices.csv", DEVICES)
    found.write("all.yaml", SAMPLE_DOCUMENTS)
    for words in (("import", "users", "users.csv"), ("import", "devices", "devices.csv"), ("save", "all.yaml")):
        assert found(*words).status == 0
    return found


def stop(process: subprocess.Popen[str], order: signal.Signals) -> tuple[str, str]:
    """End a program that was started, and give the rest of what it printed."""
    process.send_signal(order)
    out, err = process.communicate(timeout=60)
    return out, err


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """`journeys dev` runs in this folder."""
    found = filled(tmp_path_factory.mktemp("running"))
    with found.program("dev", "--json") as process:
        line = process.stdout.readline()
        assert set(one_object(line)) == {"address", "ui", "home"}, process.stderr.read()
        yield found
        out, err = stop(process, signal.SIGINT)
    assert (process.returncode, out) == (0, ""), err
    assert err.split() == ["draining", "stopped"]
    assert not embedded_file(found.settings).exists()


@pytest.fixture(scope="module")
def first(here: Commands) -> Said:
    """The first start of `hello`, to its end."""
    said = here.run("start", "hello", "--wait", "--json")
    assert said.status == 0, said
    return said


def test_a_journey_is_started_and_waited_for(here: Commands, first: Said) -> None:
    """`start --wait --json` prints the final stats as one object, and its progress on standard error."""
    said = first
    stats = said.json
    assert (stats["journey"], stats["version"], stats["state"]) == ("hello", 1, "finished")
    assert (stats["audience"], stats["entered"], stats["refused"], stats["inside"]) == (4, 4, {}, 0)
    assert stats["exited"] == {"end": 4}
    assert stats["elements"]["loyal"]["branches"] == {"users_in_segment": 3, "all_other_users": 1}
    assert stats["elements"]["promo"]["users"] == {"accepted": 2, "skipped: no-reachable-device": 1}
    assert stats["elements"]["promo"]["devices"] == {"accepted": 3}
    assert stats["elements"]["done"]["left"] == {"end": 4}
    assert "hello" in said.err
    assert "4/4" in said.err
    assert here("stats", "hello", "--version", "1", "--json").json["elements"] == stats["elements"]


@pytest.mark.usefixtures("first")
def test_people_read_the_funnel(here: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The funnel has each branch and outcome on a line of its own, within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = [" ".join(line.split()) for line in here("stats", "hello").out.splitlines()]
    assert "-> Users in a segment 3 75%" in lines
    assert "-> All other users 1 25%" in lines
    assert "accepted 2 67% 3" in lines
    assert "skipped: no-reachable-device 1 33%" in lines
    assert "left: end 4 100%" in lines


@pytest.mark.usefixtures("first")
def test_pushes_are_listed_and_counted(here: Commands) -> None:
    """Each push is a row with its designed keys; filters and the limit hold, and the total counts all that match."""
    found = here("pushes", "hello", "--json").json
    assert found["total"] == 3
    keys = {"user_id", "device_id", "element", "at", "provider", "outcome", "title"}
    assert all(keys <= set(push) for push in found["pushes"])
    rows = {(push["user_id"], push["device_id"], push["outcome"], push["title"]) for push in found["pushes"]}
    assert rows == {
        ("u1", "d1", "accepted", "Merci Anna"),
        ("u1", "d1b", "accepted", "Merci Anna"),
        ("u6", "d6", "accepted", "Merci Fatima"),
    }
    assert all(push["provider"] == "outbox" and push["element"] == "promo" for push in found["pushes"])
    assert here("pushes", "--user", "u1", "--json").json["total"] == 2
    assert here("pushes", "--user", "u3", "--json").json == {"total": 0, "pushes": []}
    assert here("pushes", "--outcome", "refused", "--json").json["total"] == 0
    limited = here("pushes", "hello", "--limit", "1", "--json").json
    assert (limited["total"], len(limited["pushes"])) == (3, 1)
    people = here("pushes", "hello").out
    assert "3 of 3 pushes" in people
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", people, re.MULTILINE)


@pytest.mark.usefixtures("first")
def test_a_users_way_is_explained(here: Commands) -> None:
    """`explain` tells each step with its branch, reason and table versions."""
    (run,) = here("explain", "hello", "u1", "--json").json["runs"]
    assert {"version", "key", "entered_at", "state", "steps"} <= set(run)
    assert (run["version"], run["key"], run["state"], run["exit"]) == (1, "", "left", "done")
    assert [(step["element"], step["branch"]) for step in run["steps"]] == [
        *(("loyal", "users_in_segment"), ("promo", "next"))
    ]
    assert all({"element", "at", "branch", "because", "tables"} <= set(step) for step in run["steps"])
    assert run["steps"][0]["tables"]["users"] == 0
    (other,) = here("explain", "hello", "u4", "--json").json["runs"]
    assert [step["branch"] for step in other["steps"]] == ["all_other_users"]
    pushes = [(push["device_id"], push["provider"], push["outcome"]) for push in run["steps"][1]["pushes"]]
    assert pushes == [("d1", "outbox", "accepted"), ("d1b", "outbox", "accepted")]
    people = here("explain", "hello", "u1").out
    assert "u1 got promo on 2 devices" in people
    assert "Users in a segment" in people
    assert re.search(r"^ +read +users v0", people, re.MULTILINE)
    assert "accepted: d1b" in people
    assert "left by the exit 'done'" in people
    assert "u4 got nothing" in here("explain", "hello", "u4").out
    assert "no-reachable-device" in here("explain", "hello", "u2").out


@pytest.mark.usefixtures("first")
def test_why_a_user_was_never_in_the_audience_is_explained(here: Commands) -> None:
    """For a user whom nobody asked to enter, `explain` shows the audience's condition with the values found."""
    never = here("explain", "hello", "u3", "--json").json
    assert (never["runs"], never["refused"]) == ([], [])
    assert never["audience"]["start"]["true"] is False
    people = here("explain", "hello", "u3").out
    assert "never in the audience" in people
    assert "plan in paid, pro   (is free)" in people
    assert here("explain", "hello", "u99", "--json").codes == ["not-found"]


@pytest.mark.usefixtures("first")
def test_numbers_are_given_as_csv(here: Commands) -> None:
    """CSV has a row for each number, with the journey's own first; --format json is --json, also for a failure."""
    rows = list(csv.DictReader(io.StringIO(here("stats", "hello", "--version", "1", "--format", "csv").out)))
    found = {(row["element"], row["what"], row["name"]): int(row["number"]) for row in rows}
    assert len(found) == len(rows)
    assert {(row["journey"], row["version"]) for row in rows} == {("hello", "1")}
    assert found["", "audience", ""] == found["", "entered", "start"] == found["", "left", "end"] == 4
    assert found["loyal", "branch", "users_in_segment"] == 3
    assert found["promo", "users", "skipped: no-reachable-device"] == 1
    assert found["promo", "devices", "accepted"] == 3
    assert found["done", "left", "end"] == found["done", "arrived", ""] == 4
    assert here("stats", "hello", "--format", "json").json["exited"] == {"end": 4}
    assert here("stats", "nobody", "--format", "json").codes == ["not-found"]


def test_numbers_are_watched_until_the_journey_has_finished(here: Commands) -> None:
    """Without a terminal, `stats --watch` prints a line for each change and ends with the journey."""
    here.write("watched.yaml", SAMPLE_DOCUMENTS.replace("journey: hello", "journey: watched"))
    assert here("save", "watched.yaml").status == 0
    with here.program("stats", "watched", "--watch") as watch:
        first = watch.stdout.readline()
        assert "watched v1 draft: entered 0, refused 0, inside 0, left 0" in first
        assert here("start", "watched", "--wait").status == 0
        out, err = watch.communicate(timeout=60)
    assert (watch.returncode, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1].endswith(
        "watched v1 finished: entered 4, refused 0, inside 0, left 4; arrived: loyal 4, promo 3, done 4"
    )
    assert len({line.split(" ", 1)[1] for line in lines}) == len(lines)
    again = here("stats", "watched", "--watch", "--json")
    assert (again.status, again.json["state"]) == (0, "finished")


@pytest.mark.usefixtures("first")
def test_runs_are_listed_with_where_each_user_is(here: Commands) -> None:
    """`runs` gives each run with its user, element and instant; users, versions and failures are filters."""
    found = here("runs", "hello@1", "--json").json
    assert found["total"] == len(found["runs"]) == 4
    assert {"workflow_id", "user_id", "element", "since"} <= set(found["runs"][0])
    assert {(run["user_id"], run["element"], run["status"]) for run in found["runs"]} == {
        (user, "done", "completed") for user in ("u1", "u2", "u4", "u6")
    }
    assert "journey/hello/user/u1" in here("runs", "hello", "--user", "u1").out
    assert here("runs", "hello", "--failed", "--json").json == {"total": 0, "runs": []}
    assert here("runs", "hello", "--at", "promo", "--json").json == {"total": 0, "runs": []}
    assert here("runs", "hello", "--at", "prom", "--json").codes == ["not-found"]
    assert here("runs", "hello", "--limit", "1").out.endswith("1 of 4 runs\n")


@pytest.mark.usefixtures("first")
def test_a_journey_is_drawn(here: Commands) -> None:
    """`draw` prints or writes either form, with numbers or without; a file that is not saved has no numbers."""
    said = here("draw", "hello@1", "--stats", "--format", "mermaid")
    assert 'n1 -->|"Users in a segment#58; 3 (75%)"| n2' in said.out
    assert here("draw", "hello", "--stats", "--output", "hello.svg").status == 0
    assert (here.folder / "hello.svg").read_text().startswith("<svg ")
    assert here("draw", "all.yaml", "--json").json["drawing"].startswith("<svg ")
    assert here("draw", "all.yaml", "--stats", "--json").codes == ["usage"]


def test_a_file_is_checked_saved_and_started(here: Commands) -> None:
    """`start FILE` saves the document as `save` would; of a file with faults nothing is saved or started."""
    here.write("other.yaml", SAMPLE_DOCUMENTS.replace("journey: hello", "journey: other"))
    before = here.kept()
    bad = here.write(
        "bad.yaml", SAMPLE_DOCUMENTS.replace("journey: hello", "journey: bad").replace("next: done", "next: don")
    )
    said = here("start", bad.name, "--json")
    assert said.status == 2
    assert (said.errors[0]["file"], said.errors[0]["path"]) == ("bad.yaml", "elements.promo.next")
    assert here.kept() == before
    started = here("start", "other.yaml", "--json")
    assert started.status == 0
    assert started.json == {
        **{"journey": "other", "version": 1, "workflow_id": "journey/other"},
        **{"audience": 4, "already_running": False},
    }
    assert here("start", "nobody", "--json").codes == ["not-found"]
    assert here("start", "other@7", "--json").codes == ["not-found"]


def test_a_second_start_admits_nobody_twice(here: Commands) -> None:
    """A finished journey starts anew, and its re-entry rule refuses who was inside; progress counts this start."""
    here.write("again.yaml", SAMPLE_DOCUMENTS.replace("journey: hello", "journey: again"))
    assert here("start", "again.yaml", "--wait").status == 0
    said = here("start", "again", "--wait", "--json")
    assert (said.status, said.json["audience"], said.json["entered"]) == (0, 8, 4)
    assert said.json["refused"] == {"entered-before": 4}
    assert "4/4" in said.err
    assert here("pushes", "again", "--json").json["total"] == 3
    refused = here("explain", "again", "u1", "--json").json["refused"]
    assert [row["reason"] for row in refused] == ["entered-before"]
    assert "refused" in here("explain", "again", "u1").out


@pytest.mark.usefixtures("first")
def test_journeys_are_listed_with_their_state(here: Commands) -> None:
    """`list` tells the state of each journey."""
    rows = {row["journey"]: row for row in here("list", "--json").json["journeys"]}
    assert (rows["hello"]["state"], rows["hello"]["inside"]) == ("finished", 0)


def test_a_second_server_for_one_home_is_refused(here: Commands) -> None:
    """`dev` beside `dev` in one home: refused, with the address of the one that runs."""
    said = here("dev", "--json")
    assert (said.status, said.codes) == (2, ["already-running"])
    assert "127.0.0.1" in said.errors[0]["message"]


def test_watching_ends_by_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C ends `stats --watch` with 130 and without a word of complaint; it needs no server."""
    here = filled(tmp_path)
    with here.program("stats", "hello", "--watch") as watch:
        assert "hello v1 draft" in watch.stdout.readline()
        out, err = stop(watch, signal.SIGINT)
    assert (watch.returncode, out, err) == (130, "", "")


# ------------------------------------------------------------------------------------------- no server, no worker


@pytest.mark.parametrize("known", ["nothing", "environment", "left behind"])
def test_a_server_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    """No server: exit status 1, with the address tried and what to do; a file's faults come first; nothing is saved."""
    here = filled(tmp_path)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    if known == "environment":
        monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    elif known == "left behind":
        server = EmbeddedServer(address=address, ui="http://127.0.0.1:1", pid=2**22)
        embedded_file(here.settings).write_text(server.model_dump_json())
    here.write("new.yaml", SAMPLE_DOCUMENTS.replace("journey: hello", "journey: new"))
    before = here.kept()
    for words in (("start", "hello"), ("start", "new.yaml"), ("worker",)):
        said = here(*words, "--json")
        assert (said.status, said.codes) == (1, ["no-server"])
        assert "journeys dev" in said.errors[0]["hint"]
        assert known == "nothing" or address in said.errors[0]["message"]
        assert here.kept() == before
    here.write("new.yaml", SAMPLE_DOCUMENTS.replace("next: done", "next: don"))
    assert here("start", "new.yaml", "--json").status == 2


def test_a_start_without_a_worker_waits_for_one(
    tmp_path: Path, address: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker ever served: said after some seconds, exit status 1; the journey waits, and a worker then runs it."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", namespace)
    here = filled(tmp_path)
    said = here.run("start", "hello", "--json")
    assert (said.status, said.codes) == (1, ["no-worker"])
    assert "5 s" in said.errors[0]["message"]
    assert "journeys worker" in said.errors[0]["hint"]
    assert "Traceback" not in said.err
    assert here("stats", "hello", "--json").json["state"] == "draft"
    with here.program("worker", "--json") as worker:
        assert any("serving" in line for line in worker.stderr), "it ended"
        again = here.run("start", "hello", "--wait", "--json")
        out, err = stop(worker, signal.SIGTERM)
    assert worker.returncode == 0, err
    assert one_object(out)["queues"][0] == JOURNEYS_QUEUE
    assert "draining" in err
    assert (again.status, again.json["entered"], again.json["exited"]) == (0, 4, {"end": 4})
