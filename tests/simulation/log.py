"""A log of transactions in memory: what Kafka promises, and no more.

Records, markers and holes share the offsets of a partition. A committed reader sees up to the first
open transaction, and nothing of aborted ones; markers may be written to some partitions later than
to others. Offsets are accepted from members of the present generation - and, as a broker does, from
anyone who claims no membership at all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from faust.types import TP

from streams.columnar import Membership
from streams.flush import Flush, group_metadata
from streams.records import Fetched, Record

#: How long a broker of ours lets a transaction be open.
TRANSACTION_TIMEOUT_S = 10.0


#: Where the offsets of the group stand: they too are seen with their marker only, the last one.
OFFSETS = TP("__consumer_offsets", 0)


class Fenced(Exception):
    """The broker refuses: another generation, or another producer of the same id, is in charge."""


@dataclass(eq=False, slots=True)
class Open:
    """A transaction; ``first`` holds where it begins in each partition without its marker."""

    producer: str
    epoch: int
    since_s: float = 0.0
    state: str = "open"
    first: dict[TP, int] = field(default_factory=dict)
    offsets: dict[TP, int] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """A record or, where ``record`` is None, a marker."""

    record: Fetched | None
    transaction: Open | None
    is_lost: bool = False


@dataclass(slots=True)
class Partition:
    """Entries by offset; compaction takes some out."""

    entries: dict[int, Entry] = field(default_factory=dict)
    end: int = 0


@dataclass(slots=True)
class MemoryLog:
    """Topics, transactions and one consumer group."""

    partitions: dict[TP, Partition] = field(default_factory=dict)
    transactions: list[Open] = field(default_factory=list)
    begun: list[Open] = field(default_factory=list)
    epochs: dict[str, int] = field(default_factory=dict)
    committed: dict[TP, int] = field(default_factory=dict)
    generation: int = 0
    members: set[str] = field(default_factory=set)
    slow_markers: bool = False
    #: Of topics that were made anew.
    topic_ids: dict[str, str] = field(default_factory=dict)
    now_ms: int = 0
    #: A clock that stands still but for :meth:`sleep`.
    clock_s: float = 0.0
    #: What happens while a recovery waits: called one by one, each time that it looks.
    meanwhile: list[Callable[[], None]] = field(default_factory=list)

    # -- writing ------------------------------------------------------------------------------

    def append(self, record: Record, transaction: Open | None = None) -> None:
        tp = TP(record.topic, record.partition)
        headers = [
            (name, value.encode() if isinstance(value, str) else value)
            for name, value in record.headers or ()
        ]
        offset = self._partition(tp).end
        fetched = Fetched(offset, self.now_ms, record.key, record.value, headers)
        if transaction is not None:
            self._check_producer(transaction)
            transaction.first.setdefault(tp, offset)
        self._put(tp, Entry(fetched, transaction))

    def begin(self, producer: str) -> Open:
        transaction = Open(producer, self.epochs.setdefault(producer, 0), self.clock_s)
        self.transactions.append(transaction)
        self.begun.append(transaction)
        return transaction

    def send_offsets(
        self, transaction: Open, offsets: Mapping[TP, int], membership: Membership
    ) -> None:
        self._check_producer(transaction)
        is_member = membership.generation == self.generation and (
            membership.member_id in self.members
        )
        if not is_member and (membership.generation, membership.member_id) != (-1, ""):
            raise Fenced(f"{membership} in generation {self.generation}")
        transaction.offsets |= offsets
        transaction.first.setdefault(OFFSETS, 0)

    def end(self, transaction: Open, state: str) -> None:
        """Commit or abort; the markers may take their time."""
        self._check_producer(transaction)
        transaction.state = state
        if not self.slow_markers:
            self.write_markers()

    def write_markers(self, most: int | None = None) -> None:
        """Write markers of transactions that are decided."""
        due = [
            (transaction, tp)
            for transaction in self.transactions
            if transaction.state != "open"
            for tp in transaction.first
            if tp != OFFSETS or len(transaction.first) == 1
        ]
        for transaction, tp in due[:most]:
            del transaction.first[tp]
            if tp != OFFSETS:
                self._put(tp, Entry(None, transaction))
            elif transaction.state == "committed":
                self.committed |= transaction.offsets
        self.transactions = [t for t in self.transactions if t.state == "open" or t.first]

    def end_transactions(self, transactional_ids: Sequence[str]) -> None:
        for producer in transactional_ids:
            for transaction in self.transactions:
                if transaction.producer == producer and transaction.state == "open":
                    transaction.state = "aborted"
            self.epochs[producer] = self.epochs.get(producer, 0) + 1
        self.write_markers()

    def time_out_transactions(self, after_s: float = 0.0) -> None:
        """Abort what is open for so long, as a broker does."""
        open_ = [t for t in self.transactions if t.state == "open"]
        self.end_transactions(
            [t.producer for t in open_ if self.clock_s - t.since_s >= after_s],
        )

    def sleep(self, seconds: float) -> None:
        """Let time go by."""
        self.clock_s += seconds
        self.time_out_transactions(TRANSACTION_TIMEOUT_S)

    def tear(self, transaction: Open, tp: TP) -> None:
        """Lose what a committed transaction has in one partition, as a faulty broker might."""
        for entry in self._partition(tp).entries.values():
            if entry.transaction is transaction:
                entry.is_lost = True

    def compact(self, tp: TP) -> None:
        """Take out what a later record of the same key replaces, as far as all is decided."""
        found = self._partition(tp)
        stable = self._stable(tp)
        newest: dict[bytes | None, int] = {}
        for offset, entry in list(found.entries.items()):
            if offset >= stable or entry.record is None:
                continue
            if entry.transaction is not None and entry.transaction.state == "aborted":
                del found.entries[offset]
                continue
            before = newest.get(entry.record.key)
            newest[entry.record.key] = offset
            if before is not None:
                del found.entries[before]

    # -- reading ------------------------------------------------------------------------------

    def ends(self, partitions: Iterable[TP], *, stable: bool) -> dict[TP, int]:
        if stable and self.meanwhile:
            self.meanwhile.pop(0)()
        return {tp: self._stable(tp) if stable else self._partition(tp).end for tp in partitions}

    def ranges(self, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        return {p: (0, self._stable(TP(topic, p))) for p in partitions}

    def topic_id(self, topic: str) -> str:
        return self.topic_ids.get(topic, f"id of {topic}")

    def read(
        self,
        topic: str,
        partitions: Sequence[int],
        begin: Mapping[int, int] | None = None,
        end: Mapping[int, int] | None = None,
        *,
        committed: bool = True,
    ) -> Iterator[dict[int, list[Fetched]]]:
        for partition in partitions:
            tp = TP(topic, partition)
            last = self._stable(tp) if committed else self._partition(tp).end
            last = min(last, (end or {}).get(partition, last))
            found = [
                entry.record
                for offset, entry in self._partition(tp).entries.items()
                if (begin or {}).get(partition, 0) <= offset < last
                and entry.record is not None
                and not (committed and _is_aborted(entry))
            ]
            # Two at a time: nothing may hang on how a client cuts what it reads.
            for place in range(0, len(found), 2):
                yield {partition: found[place : place + 2]}

    def records(self, topic: str) -> list[Fetched]:
        """Return all committed records of a topic, partition by partition."""
        partitions = sorted(tp.partition for tp in self.partitions if tp.topic == topic)
        return [
            record
            for found in self.read(topic, partitions)
            for records in found.values()
            for record in records
        ]

    def fetch(self, tp: TP, position: int, most: int) -> tuple[int, list[Fetched]]:
        """Return the committed records from a position on, and the position after them."""
        found: list[Fetched] = []
        last = self._stable(tp)
        for offset, entry in self._partition(tp).entries.items():
            if not position <= offset < last or entry.record is None or _is_aborted(entry):
                continue
            if len(found) == most:
                return found[-1].offset + 1, found
            found.append(entry.record)
        return max(position, last), found

    def _stable(self, tp: TP) -> int:
        end = self._partition(tp).end
        return min([end, *(t.first[tp] for t in self.transactions if tp in t.first)])

    def _partition(self, tp: TP) -> Partition:
        return self.partitions.setdefault(tp, Partition())

    def _put(self, tp: TP, entry: Entry) -> None:
        found = self._partition(tp)
        found.entries[found.end] = entry
        found.end += 1

    def _check_producer(self, transaction: Open) -> None:
        if transaction.epoch != self.epochs[transaction.producer]:
            raise Fenced(f"producer {transaction.producer} has a successor")
        if transaction.state != "open":
            raise Fenced(f"the transaction of {transaction.producer} was ended")


def _is_aborted(entry: Entry) -> bool:
    aborted = entry.transaction is not None and entry.transaction.state == "aborted"
    return aborted or entry.is_lost


@dataclass(frozen=True, slots=True)
class MemoryTransactions:
    """A flush on its way into the log, step by step, so that it can be stopped at each."""

    log: MemoryLog
    producer: str

    def steps(self, flush: Flush, membership: Membership) -> Iterator[None]:
        """Do one step of the commit each time; whoever stops asking has died or fallen asleep."""
        group_metadata("andon", membership)
        assert flush.offsets
        transaction = self.log.begin(self.producer)
        yield
        for record in flush.records:
            self.log.append(record, transaction)
            yield
        self.log.send_offsets(transaction, flush.offsets, membership)
        yield
        self.log.end(transaction, "committed")
