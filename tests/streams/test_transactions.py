"""The producer behind a flush, on a real broker."""

import pytest
from faust.types import TP

from streams.columnar import Membership
from streams.flush import Flush
from streams.records import Record
from streams.transactions import FlushFailed, KafkaTransactions


@pytest.mark.parametrize("records", [1, 2_000, 200_000])
def test_a_fenced_worker_is_told_so(records, settings, new_topic):
    """Its successor has taken its id over: the flush fails with the broker's own words.

    However far it comes before the broker has answered: with one record to the end, with very many
    the answer is there before the last is produced.
    """
    chosen, topic = settings(), new_topic("outputs")

    def opened() -> KafkaTransactions:
        name = f"{chosen.application_id}-1"
        return KafkaTransactions(chosen.kafka_client(), chosen.application_id, name, 5_000)

    first, second = opened(), opened()
    first.start()
    second.start()
    outputs = [Record(topic, 0, b"k", bytes(900))] * records
    flush = Flush(outputs=outputs, offsets={TP(topic, 0): 1})

    with pytest.raises(FlushFailed, match=r"fenced by (a )?newer"):
        first.commit(flush, Membership(1, "me"))
