"""`Journey`: one journey's life, from its start until nobody can enter any more and nobody is inside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from workflows.contracts import (
    JOURNEY_VERSION,
    EnrolmentRequest,
    EnterReport,
    EnterRequest,
    FinishRequest,
    JourneyInput,
    JourneyPlace,
    JourneyRequest,
    JourneyStatus,
    LifeReport,
    LifeRequest,
    MoveRequest,
    OpenedJourney,
    OpenRequest,
    ResumeRequest,
    Revised,
    ReviseRequest,
    ScheduleRequest,
    Stats,
    TakeOutRequest,
    close_journey,
    count,
    enter,
    finish_journey,
    move,
    open_journey,
    pause_journey,
    resume_journey,
    revise_journey,
    set_schedules,
    take_out,
    wait_until_empty,
)
from workflows.enrolment import HEARTBEAT, LONGEST, PATIENCE, QUICK, admit, evaluate
from workflows.turnover import Turnover

KNOWN_EVERYWHERE = timedelta(seconds=3)
"""How long after a pause is committed every worker knows of it, or has stopped trusting what it knows."""
LAST_ZONE = timedelta(hours=27)
"""How long after an instant the last of all zones has come to the same time of the same day, and a little."""
POLLING = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=1.5, maximum_interval=timedelta(seconds=30)
)
"""How often the number of users inside is asked for; the server's retries cost no history."""

NO_INPUT = JourneyInput()
"""Stands for the input that a client forgot: the run is refused with what to give, in place of failing its task."""

MOST_USERS = 1_000
"""Most users that one update lets enter."""

Answer = TypeVar("Answer", LifeReport, EnterReport, Revised)


@workflow.defn(name="Journey")
class Journey:
    """One journey's life. It ends when no entry can admit any more and nobody is inside."""

    @workflow.init
    def __init__(self, given: JourneyInput = NO_INPUT) -> None:
        """Start with nothing opened; or, continued as new, where the run before was.

        Args:
            given: What the run is started with. It is looked at here, since an update may come before the run begins.
        """
        place = given.place
        self._opened: OpenedJourney | None = None if place is None else place.opened
        self._launch = "" if place is None else place.launch
        self._audience: int | None = None if place is None else place.audience
        self._paused = place is not None and place.paused
        self._finishing = place is not None and place.finishing
        self._stats: Stats | None = None if place is None else place.stats
        self._doing = "being opened"
        self._entering: list[EnrolmentRequest] = []
        self._turn = asyncio.Lock()
        self._turns = 0
        self._turnover = Turnover()

    @workflow.run
    async def run(self, given: JourneyInput = NO_INPUT) -> Stats:
        """Run a journey.

        Args:
            given: A saved journey's name, or a whole definition.

        Returns:
            The final numbers.
        """
        if given.place is None:
            await self._open(given)
        while True:
            if self._entering:
                requests, self._entering = self._entering, []
                await self._enrol(requests)
            ended = await self._watch()
            if ended is not None:
                break
            if workflow.info().is_continue_as_new_suggested() and not self._entering:
                await self._turnover.gap()
                if not self._entering:  # a revision that has finished in the meantime may have an audience enter
                    self._go_on(given)
        self._stats = ended
        self._stats = await workflow.execute_activity(
            close_journey,
            self._request(),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Write down that it is finished",
        )
        async with self._turn:
            self._finishing = True
            if self._require_opened().scheduled_entries:
                await self._schedule()
        self._tell("finished")
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._stats

    async def _open(self, given: JourneyInput) -> None:
        """Check and save what is to run, and have its audiences enter."""
        self._launch = str(workflow.uuid4())
        opened = self._opened = await workflow.execute_activity(
            open_journey,
            OpenRequest(input=given, workflow_id=workflow.info().workflow_id, launch=self._launch, now=workflow.now()),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Check, save, set running",
        )
        self._entering = [self._enrolment(opened, entry) for entry in opened.audience_entries]
        if not self._entering:
            self._audience = 0
        if opened.scheduled_entries:
            async with self._turn:
                await self._schedule(opening=True)

    async def _watch(self) -> Stats | None:
        """Wait until nobody is inside and nobody can enter any more.

        Returns:
            The numbers; null when something has changed meanwhile, so that it has to be waited for anew.
        """
        admits, until, turns = self._admits(), self._admits_until(), self._turns
        self._tell("admitting users" if admits else "waiting for those inside to leave")
        watching = workflow.start_activity(
            wait_until_empty,
            self._request().model_copy(update={"admits": admits}),
            start_to_close_timeout=QUICK,
            retry_policy=POLLING,
            summary="Watch while users may enter" if admits else "Wait until nobody is inside",
        )
        try:
            await workflow.wait_condition(
                lambda: watching.done() or self._turns != turns or workflow.info().is_continue_as_new_suggested(),
                timeout=until - workflow.now() if until is not None else None,
            )
        except TimeoutError:
            self._turns += 1
        if watching.done():
            return await watching
        watching.cancel()
        try:
            await watching
        except (ActivityError, asyncio.CancelledError):
            return None
        return None

    def _admits(self) -> bool:
        """Whether users may still enter."""
        if self._finishing or self._opened is None or not self._opened.admits:
            return False
        until = self._opened.admits_until
        return until is None or workflow.now() < until + LAST_ZONE

    def _admits_until(self) -> datetime | None:
        """When the last user may enter, where that is known and ahead; null where it is not, or has passed."""
        until = self._opened.admits_until if self._opened is not None else None
        if self._finishing or until is None or until + LAST_ZONE <= workflow.now():
            return None
        return until + LAST_ZONE

    def _enrolment(self, opened: OpenedJourney, entry: str) -> EnrolmentRequest:
        """Name this start's admission of one entry's audience."""
        return EnrolmentRequest(
            enrolment=f"{self._launch}/{entry}",
            journey=opened.journey,
            version=opened.version,
            digest=opened.digest,
            entry=entry,
            now=workflow.now(),
        )

    async def _enrol(self, requests: list[EnrolmentRequest]) -> None:
        """Evaluate every audience once, then admit them page by page."""
        users = 0
        for request in requests:
            self._tell(f"evaluating the audience of {request.entry!r}")
            users += (await evaluate(request)).users
        self._audience = users
        for request in requests:
            self._tell(f"enrolling the audience of {request.entry!r}")
            await admit(request)

    async def _schedule(self, *, opening: bool = False) -> None:
        """Have the schedules of the entries be as the journey's life demands."""
        opened = self._require_opened()
        await workflow.execute_activity(
            set_schedules,
            ScheduleRequest(
                journey=opened.journey,
                version=opened.version,
                digest=opened.digest,
                launch=self._launch,
                entries=[] if self._finishing else opened.scheduled_entries,
                paused=self._paused,
                opening=opening,
                started_at=workflow.now(),
            ),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Set the schedules of entries",
        )

    def _go_on(self, given: JourneyInput) -> None:
        """Continue as a new run of the same life."""
        place = JourneyPlace(
            launch=self._launch,
            opened=self._require_opened(),
            audience=self._audience,
            finishing=self._finishing,
            paused=self._paused,
            stats=self._stats,
        )
        workflow.continue_as_new(given.model_copy(update={"place": place}))

    def _require_opened(self) -> OpenedJourney:
        """Give the version that runs, or refuse while there is none."""
        if self._opened is None:
            raise ApplicationError("the journey is still being opened: ask again in a moment", type="RefusedError")
        return self._opened

    def _request(self) -> JourneyRequest:
        """Name this journey in its version, now."""
        opened = self._require_opened()
        return JourneyRequest(journey=opened.journey, version=opened.version, launch=self._launch, now=workflow.now())

    def _tell(self, doing: str) -> None:
        """Say what the journey is busy with, to the query and to Temporal's UI."""
        self._doing = doing
        opened = self._require_opened()
        state = "**Paused**: nothing is sent, and nobody enters" if self._paused else f"Is {doing}"
        lines = [f"**{opened.title or opened.journey}**, version {opened.version}", "", f"{state}.", ""]
        if self._audience is not None:
            lines.append(f"- audience of this start: {self._audience:,}")
        if self._stats is not None:
            counted, left = self._stats, sum(self._stats.exited.values())
            lines.append(
                f"- version {counted.version} at {counted.as_of:%Y-%m-%d %H:%M:%S} UTC: entered {counted.entered:,}, "
                f"moved in {counted.moved_in:,}, inside {counted.inside:,}, left {left:,}, "
                f"moved out {counted.moved_out:,}"
            )
        lines.append("- count anew: the update `refresh`")
        workflow.set_current_details("\n".join(lines))

    async def _turn_life(
        self, work: Callable[[LifeRequest], Awaitable[Answer]], request: LifeRequest, summary: str
    ) -> Answer:
        """Have the ledger take a turn of this life."""
        return await workflow.execute_activity(
            work,
            request,
            start_to_close_timeout=LONGEST,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=PATIENCE,
            summary=summary,
        )

    def _life(self) -> LifeRequest:
        """Name this life, now."""
        opened = self._require_opened()
        return LifeRequest(journey=opened.journey, version=opened.version, launch=self._launch, now=workflow.now())

    @workflow.query
    def status(self) -> JourneyStatus:
        """Tell where the journey's life is."""
        return JourneyStatus(
            journey=self._opened.journey if self._opened else "",
            version=self._opened.version if self._opened else 0,
            state=(
                "finished"
                if self._doing == "finished" or self._finishing
                else "paused"
                if self._paused
                else "running"
                if self._opened
                else "draft"
            ),
            doing=self._doing,
            audience=self._audience,
        )

    @workflow.query
    def stats(self) -> Stats | None:
        """Tell the last numbers that were counted, with their `as_of`; null before the first count."""
        return self._stats

    @workflow.update
    async def refresh(self) -> Stats:
        """Count where everybody is, now."""
        self._stats = await workflow.execute_activity(
            count,
            self._request(),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Count where everybody is",
        )
        self._tell(self._doing)
        return self._stats

    @refresh.validator
    def _can_refresh(self) -> None:
        """Refuse while there is nothing to count."""
        self._request()
        self._turnover.refuse()

    @workflow.update
    async def pause(self) -> LifeReport:
        """Freeze: when this has answered, nothing is sent and nobody enters, until `resume`. Nobody inside is lost."""
        async with self._turn:
            self._refuse_pause()
            report = await self._turn_life(pause_journey, self._life(), "Pause")
            self._paused = True
            if self._require_opened().scheduled_entries:
                await self._schedule()
            self._tell(self._doing)
            # A worker's copy of the ledger may be a second old, and is not trusted from three on.
            await workflow.sleep(KNOWN_EVERYWHERE)
            return report

    @pause.validator
    def _refuse_pause(self) -> None:
        self._require_opened()
        if self._paused:
            raise _refused("the journey is paused already")
        if self._finishing:
            raise _refused("the journey is finished: those inside go on to their ends; `finish --inside end` ends them")

    @workflow.update
    async def resume(self, request: ResumeRequest | None = None) -> LifeReport:
        """Go on after a pause.

        Args:
            request: What becomes of what fell due meanwhile; left out: it goes out now.
        """
        async with self._turn:
            self._refuse_resume(request)
            resume = request or ResumeRequest()
            life = self._life().model_copy(update={"resume": resume})
            report = await self._turn_life(resume_journey, life, f"Resume, due: {resume.due}")
            self._paused = False
            if self._require_opened().scheduled_entries:
                await self._schedule()
            self._tell(self._doing)
            return report

    @resume.validator
    def _refuse_resume(self, request: ResumeRequest | None = None) -> None:
        self._require_opened()
        if not self._paused:
            raise _refused("the journey is not paused")

    @workflow.update
    async def finish(self, request: FinishRequest | None = None) -> LifeReport:
        """Let nobody enter any more. The workflow ends when nobody is inside.

        Args:
            request: What becomes of those inside; left out: they go on to their ends.
        """
        async with self._turn:
            self._refuse_finish(request)
            finish = request or FinishRequest()
            life = self._life().model_copy(update={"finish": finish})
            report = await self._turn_life(finish_journey, life, f"Finish, those inside: {finish.inside}")
            self._finishing, self._paused = True, False
            if self._require_opened().scheduled_entries:
                await self._schedule()
            self._turns += 1
            return report

    @finish.validator
    def _refuse_finish(self, request: FinishRequest | None = None) -> None:
        self._require_opened()
        if self._finishing and (request is None or request.inside == "keep"):
            raise _refused("the journey is finished already: nobody enters any more")

    @workflow.update
    async def revise(self, request: ReviseRequest) -> LifeReport:
        """Have another version take over: users who enter from now on enter it.

        Args:
            request: Which version, and what becomes of those inside.
        """
        async with self._turn:
            self._refuse_revise(request)
            before = self._require_opened()
            life = self._life().model_copy(update={"revise": request})
            revised = await self._turn_life(revise_journey, life, f"Revise, those inside: {request.inside}")
            opened = self._opened = revised.opened
            if opened.version != before.version:
                workflow.upsert_search_attributes([JOURNEY_VERSION.value_set(str(opened.version))])
            if opened.scheduled_entries or before.scheduled_entries:
                await self._schedule()
            if request.enter:
                # A later version's admission: another name than the start's, so that it is another audience.
                self._entering += [
                    entering.model_copy(update={"enrolment": f"{self._launch}/v{opened.version}/{entering.entry}"})
                    for entering in (self._enrolment(opened, entry) for entry in opened.audience_entries)
                ]
            self._turns += 1
            return revised.report

    @revise.validator
    def _refuse_revise(self, request: ReviseRequest) -> None:
        self._require_opened()
        if self._finishing:
            raise _refused("the journey is finished: start the new version when nobody is inside")

    @workflow.update
    async def enter(self, request: EnterRequest) -> EnterReport:
        """Let users enter by the API entry.

        Args:
            request: Who, with which values.
        """
        self._refuse_enter(request)
        info = workflow.current_update_info()
        named = request.request or (info.id if info is not None else str(workflow.uuid4()))
        life = self._life().model_copy(update={"enter": request.model_copy(update={"request": named})})
        return await self._turn_life(enter, life, f"Enter: {len(request.users)} users")

    @enter.validator
    def _can_enter(self, request: EnterRequest) -> None:
        self._refuse_enter(request)
        self._turnover.refuse()

    def _refuse_enter(self, request: EnterRequest) -> None:
        self._require_opened()
        if self._paused or self._finishing:
            raise _refused(f"the journey is {'paused' if self._paused else 'finished'}: nobody enters")
        if not 1 <= len(request.users) <= MOST_USERS:
            raise _refused(f"{len(request.users)} users: an update takes 1 to {MOST_USERS}")

    @workflow.update
    async def remove(self, request: TakeOutRequest) -> LifeReport:
        """Take a user out of the journey, wherever he is.

        Args:
            request: Who, and the reason to write down.
        """
        life = self._life().model_copy(update={"take_out": request})
        return await self._turn_life(take_out, life, "Take a user out")

    @remove.validator
    def _refuse_remove(self, request: TakeOutRequest) -> None:
        self._require_opened()
        self._turnover.refuse()

    @workflow.update(name="move")
    async def move_user(self, request: MoveRequest) -> LifeReport:
        """Have a user go on at another element, in the version that runs.

        Args:
            request: Who, and where.
        """
        life = self._life().model_copy(update={"move": request})
        return await self._turn_life(move, life, "Move a user")

    @move_user.validator
    def _refuse_move(self, request: MoveRequest) -> None:
        self._require_opened()
        self._turnover.refuse()


def _refused(message: str) -> ApplicationError:
    """Word a move that makes no sense in the present state."""
    return ApplicationError(message, type="RefusedError", non_retryable=True)
