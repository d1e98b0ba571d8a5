"""Sending records one after the other, and knowing at the end which did not arrive."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from confluent_kafka import Producer

from schemas.client import producer_config
from schemas.headers import Header

_FULL_WAIT_S = 0.1


class Outbox:
    """A producer for a command: used in a `with` block, after which everything is settled.

    `sent` counts what the broker has confirmed, `failures` says what it has not taken and why.
    """

    def __init__(self, client_config: Mapping[str, Any]) -> None:
        self._producer = Producer(producer_config(client_config))
        self.sent = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.flush()

    def put(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        partition: int | None = None,
        name: str = "",
    ) -> None:
        """Send one record; `name` is how a failure names it. Waits while the buffer is full."""
        place: dict[str, Any] = {} if partition is None else {"partition": partition}
        while True:
            try:
                self._producer.produce(
                    topic,
                    key=key,
                    value=value,
                    headers=list(headers),
                    on_delivery=lambda error, _: self._settle(name or topic, error),
                    **place,
                )
            except BufferError:
                self._producer.poll(_FULL_WAIT_S)
            else:
                break
        self._producer.poll(0)

    def _settle(self, name: str, error: Any) -> None:
        if error is None:
            self.sent += 1
        else:
            self.failures.append(f"{name}: {error.str()}")
