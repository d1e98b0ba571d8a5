"""What can be wrong with a record, and the errors that say so."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a record is set aside; the value of `andon.reason` and the label of the metric."""

    UNKNOWN_SCHEMA = "UNKNOWN_SCHEMA"
    UNDECODABLE = "UNDECODABLE"
    CONTRACT = "CONTRACT"
    FUTURE_TIME = "FUTURE_TIME"
    TOO_LARGE = "TOO_LARGE"
    EXPIRED = "EXPIRED"


class RecordError(Exception):
    """A record that cannot be used; `reason` is the dead letter's reason."""

    reason: Reason


class ContractViolation(RecordError):
    """A record that can be read but breaks its contract."""

    reason = Reason.CONTRACT

    def __init__(self, contract: str, field: str, problem: str) -> None:
        super().__init__(f"{contract}.{field}: {problem}")
        self.contract = contract
        self.field = field
        self.problem = problem


class UnknownSchema(RecordError):
    """A record whose schema the registry does not know, or knows as another contract's."""

    reason = Reason.UNKNOWN_SCHEMA
    next_step = "register the contract's schema with the registry"


class Undecodable(RecordError):
    """Bytes that are no record of the schema they name."""

    reason = Reason.UNDECODABLE


class FutureTime(RecordError):
    """A record that claims to have happened well after the broker received it."""

    reason = Reason.FUTURE_TIME


class TooLarge(RecordError):
    """A record above its contract's size limit."""

    reason = Reason.TOO_LARGE


class RegistryUnavailable(Exception):
    """The registry did not answer, or refused us; nothing is known about the record."""

    next_step = "see that the registry of ANDON_SCHEMA_REGISTRY_URL runs and can be reached"


class CatalogueError(Exception):
    """The catalogue of topics is wrong; the message lists every fault found."""

    exit_code = 2
    next_step = "correct the file"


class TopicMissing(Exception):
    """A topic that the broker does not have."""

    next_step = "create the topics with `andon topics create`"
