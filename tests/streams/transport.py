"""A transport without a broker: a worker's hooks in plain fields, and a client that has records."""

from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from faust.types import TP

from streams.columnar import Hooks, Membership

T0, T1, T2 = (TopicPartition("events", partition) for partition in range(3))
P0, P1, P2 = (TP("events", partition) for partition in range(3))


class Hooked:
    """What a worker tells and hears, in plain fields."""

    def __init__(self) -> None:
        self.positions: dict[TP, int] = {}
        self.room = True
        self.revoked: list[str] = []
        self.memberships: list[Membership] = []

    @property
    def hooks(self) -> Hooks:
        async def before_revocation() -> None:
            self.revoked.append("flush ended")

        return Hooks(
            lambda: self.positions, before_revocation, self.memberships.append, lambda: self.room
        )


class FakeClient:
    """Stands for a started consumer: a real subscription, and a fetcher that has records."""

    def __init__(self, *assigned: TopicPartition) -> None:
        self._subscription = SubscriptionState()
        self._subscription.subscribe({"events"})
        self._subscription.assign_from_subscribed(set(assigned))
        self._closed = False
        self._fetcher = self
        self._subscriptions = self._subscription
        self._coordinator = SimpleNamespace(generation=7, member_id="me")
        self.ready: list[tuple[TopicPartition, list[Any], int]] = []
        self.problem: Exception | None = None
        self.during_fetch: Any = lambda: None

    def assignment(self) -> set[TopicPartition]:
        return set(self._subscription.assigned_partitions())

    def state(self, tp: TopicPartition) -> Any:
        return self._subscription.subscription.assignment.state_value(tp)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._subscription.seek(tp, offset)

    async def fetched_records(self, *_: Any, **__: Any) -> dict[TopicPartition, list[Any]]:
        if self.problem is not None:
            raise self.problem
        self.during_fetch()
        ready, self.ready = self.ready, []
        for tp, _records, after in ready:
            self.state(tp).consumed_to(after)
        return {tp: records for tp, records, _ in ready}


def record_at(offset: int) -> Any:
    return SimpleNamespace(offset=offset, value=b"value", timestamp=1_000, timestamp_type=1)
