"""Every stored example of every contract goes through records, bytes, columns and checks."""

import numpy as np
import pytest

from schemas.contract import contract_names, load_contract
from tests.schemas.support import EXAMPLES, codec, examples

CONTRACTS = contract_names()
ALL = [(contract, name) for contract in CONTRACTS for name in examples(contract)]


@pytest.mark.parametrize(("contract", "name"), ALL)
def test_an_example_is_a_record_that_survives_its_bytes(contract, name):
    """A plain object becomes a whole, checked record, and comes back from its bytes unchanged."""
    record = codec(contract).record(examples(contract)[name])

    assert record == codec(contract).decode(codec(contract).encode(record))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_examples_read_as_columns_are_the_same_records(contract):
    """Reading a batch as columns gives what reading its records one by one gives."""
    records = [codec(contract).record(example) for example in examples(contract).values()]

    decoded = codec(contract).columns([codec(contract).encode(r) for r in records], [])

    assert records == decoded.frame.to_dicts()
    assert list(range(len(records))) == decoded.index.tolist()
    assert [] == decoded.rejected
    assert load_contract(contract).columns == decoded.frame.schema
    assert np.int64 == decoded.index.dtype


@pytest.mark.parametrize("contract", CONTRACTS)
def test_columns_are_written_as_their_records_would_be(contract):
    """Writing a batch of columns gives the bytes that writing its records gives."""
    values = [
        codec(contract).encode(codec(contract).record(e)) for e in examples(contract).values()
    ]

    (batch,) = codec(contract).columns(values, []).frame.to_arrow().to_batches()

    assert values == codec(contract).encode_columns(batch)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_contract_has_examples(contract):
    """Every contract has examples, and no example is left without a contract."""
    assert examples(contract)
    assert set(CONTRACTS) == {directory.name for directory in EXAMPLES.iterdir()}


def test_interactions_have_an_example_of_each_step():
    """Each event type of an interaction is shown, since each carries other fields."""
    steps = load_contract("interaction").schema["fields"][3]["type"]["symbols"]

    assert set(steps) == {example["event_type"] for example in examples("interaction").values()}
