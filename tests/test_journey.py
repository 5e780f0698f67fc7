"""The main job on the real server: an audience enters, is split, is pushed, and leaves, each user by one workflow."""

from __future__ import annotations

from tests.house import House, events_of
from workflows.contracts import user_workflow_id


async def test_everybody_enters_is_split_is_pushed_and_leaves(house: House) -> None:
    """A journey's final numbers are those that its documents and tables give by hand."""
    async with house.serving() as client:
        report = await house.engine.start("hello", client=client)
        stats = await house.engine.result(report, client=client)
        assert (report.audience, stats.audience, stats.entered, stats.inside) == (4, 4, 4, 0)
        assert stats.exited == {"end": 4}
        assert stats.elements["loyal"].branches == {"users_in_segment": 3, "all_other_users": 1}
        assert stats.elements["promo"].users == {"accepted": 2, "skipped: no-reachable-device": 1}
        assert stats.elements["promo"].devices == {"accepted": 3}
        assert len(await events_of(client, user_workflow_id("hello", "u1"))) <= 13
        assert len(await events_of(client, user_workflow_id("hello", "u4"))) <= 8
