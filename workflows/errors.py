"""What can go wrong, in one tree, and the one place that words it for Temporal.

```
JourneyError
├── DefinitionError     a document is wrong: carries every fault found    refused, never retried
├── RefusedError        the request makes no sense now                    refused, never retried
├── NotFoundError       a name nobody saved or imported                   refused, never retried
├── ImportRefused       a file cannot be imported as it is                refused, never retried
├── NotWarm             the answer needs more than a look-up              the ordinary activity takes over
├── StillInside         users are still inside the journey                retried: a poll, not a fault
├── WorkerStopping      long work ends early, since its worker stops      another worker goes on
├── StoreUnavailable    tables, catalogue or ledger cannot be reached     retried, visible to operators
├── PushError           a provider cannot be used                         retried, visible to operators
└── PushHeld            a push waits for a better minute                  retried: a wait, not a fault
```
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pydantic import BaseModel, ConfigDict
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

MAX_MESSAGE_BYTES = 8_000
"""Longest error text handed to Temporal for a failure that ends in a history, which takes payloads up to 2 MiB."""

MAX_RETRIED_BYTES = 900
"""Longest error text, and longest list of faults, of a failure that is retried.

The server keeps the last one beside the pending activity, in 4 KiB with its stack (Temporal's dynamic configuration,
`limit.mutableStateActivityFailureSize.error`); operators would read "Failure exceeds size limit." of a longer one.
"""


class Fault(BaseModel):
    """One thing that is wrong with an input, and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    code: str
    """What kind of fault, in kebab-case: permanent, for programs to match on."""
    message: str
    """What is wrong, quoting the value."""
    path: str = ""
    """Where in the document: `elements.loyal.branches.users_in_segment`."""
    hint: str = ""
    """What to do about it; empty when the message says it all."""
    file: str | None = None
    """The file as the person named it, or null for what came without one."""
    line: int | None = None
    """Line in the file, from 1."""
    column: int | None = None
    """Column in the line, from 1."""

    def __str__(self) -> str:
        """`file:line:column: path: message. hint` with the parts that are known."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return ": ".join(part for part in (place, self.path, self.message) if part) + (
            f"\n    {self.hint}" if self.hint else ""
        )


class JourneyError(Exception):
    """Anything this product raises on purpose.

    Args:
        message: What happened, quoting the value, and what to do.
        code: What kind of failure, in kebab-case, for programs to match on.
        hint: What to do, where the message does not say it.
    """

    code = "failed"
    refused = False
    """Whether trying again can never help: Temporal does not retry, the command line exits with 2."""

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    @property
    def faults(self) -> list[Fault]:
        """The failure as faults, for people and for `--json`."""
        return [Fault(code=self.code, message=self.message, hint=self.hint)]


def _listed(faults: Sequence[Fault]) -> str:
    """Word several faults as one message."""
    count = len(faults)
    text = "\n".join(str(fault) for fault in faults)
    return f"{count} fault{'s' if count != 1 else ''} found:\n{text}"


class DefinitionError(JourneyError):
    """A document is wrong.

    Args:
        faults: Every fault that was found, in document order; at least one.
    """

    code = "definition"
    refused = True

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(_listed(faults))
        self._faults = list(faults)

    @property
    def faults(self) -> list[Fault]:
        """Every fault that was found."""
        return list(self._faults)


class RefusedError(JourneyError):
    """The request is understood and makes no sense in the present state."""

    code = "refused"
    refused = True


class NotFoundError(JourneyError):
    """A name that nobody saved or imported."""

    code = "not-found"
    refused = True


class ImportRefused(JourneyError):
    """A file cannot be imported as it is: nothing was written."""

    code = "import-refused"
    refused = True
    _several: Sequence[Fault] = ()

    @classmethod
    def together(cls, found: Sequence[ImportRefused]) -> ImportRefused:
        """Make one refusal of all that is wrong with a file.

        Args:
            found: Each thing that is wrong, in the order of the file; at least one.

        Returns:
            The only one as it is, else one whose message and faults tell all of them.
        """
        if len(found) == 1:
            return found[0]
        faults = [fault for one in found for fault in one.faults]
        refused = cls(_listed(faults))
        refused._several = faults
        return refused

    @property
    def faults(self) -> list[Fault]:
        """Everything that was found wrong with the file."""
        return list(self._several) or super().faults


class NotWarm(JourneyError):
    """The answer is not at hand: the ordinary activity has to work it out."""

    code = "not-warm"


class StillInside(JourneyError):
    """Users are still inside the journey: asked again later."""

    code = "still-inside"


class WorkerStopping(JourneyError):
    """Long work ends early because its worker was told to stop: another worker goes on."""

    code = "worker-stopping"


class StoreUnavailable(JourneyError):
    """Tables, catalogue or ledger cannot be reached: work waits and goes on."""

    code = "store-unavailable"


class PushError(JourneyError):
    """A push provider cannot be used at the moment."""

    code = "push"


class PushHeld(JourneyError):
    """A push waits on purpose: nothing is wrong, and it goes on by itself."""

    code = "push-held"


def as_application_error(error: JourneyError, *, next_retry_delay: timedelta | None = None) -> ApplicationError:
    """Word an error for Temporal: the only place that builds an `ApplicationError`.

    Args:
        error: What happened.
        next_retry_delay: When the server shall try again; the retry policy decides when null.

    Returns:
        The failure to raise from an activity: its type is the class name, its message says what to do too, its first
        detail is the list of faults. Raise it `from None`: a cause would be stored beside it, with the text again.
    """
    benign = isinstance(error, NotWarm | StillInside | WorkerStopping | PushHeld)
    limit = MAX_MESSAGE_BYTES if error.refused else MAX_RETRIED_BYTES
    message = f"{error.message}. {error.hint}" if error.hint else error.message
    faults = [fault.model_dump(exclude_defaults=True) for fault in error.faults[:50]]
    if not error.refused and len(str(faults).encode()) > limit:
        faults = []  # The message has it all, as far as there is room.
    return ApplicationError(
        message.encode()[:limit].decode(errors="ignore"),
        faults,
        type=type(error).__name__,
        non_retryable=error.refused,
        next_retry_delay=next_retry_delay,
        category=ApplicationErrorCategory.BENIGN if benign else ApplicationErrorCategory.UNSPECIFIED,
    )
