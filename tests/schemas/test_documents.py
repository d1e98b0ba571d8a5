"""What the documents of the contracts say is what the files say."""

import doctest
import re
from pathlib import Path

import pytest

from schemas import catalogue, headers
from schemas.catalogue import load_catalogue
from schemas.contract import contract_names, load_contract
from schemas.errors import Reason

README = (Path(catalogue.__file__).parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [catalogue, headers])
def test_examples_in_docstrings_run(module):
    """An example that is shown is an example that works."""
    assert 0 == doctest.testmod(module).failed


def test_the_readme_names_every_topic_contract_and_reason():
    """The table of topics is complete."""
    changelogs = {topic.changelog for topic in load_catalogue()}
    names = {topic.name for topic in load_catalogue()} - changelogs
    told = set(re.findall(r"`([a-z.-]+[a-z0-9])`", README))

    assert set() == names - told
    assert all(f"| {contract} |" in README for contract in contract_names())
    assert all(f"`{reason}`" in README for reason in Reason)


@pytest.mark.parametrize("contract", contract_names())
def test_every_field_says_what_it_means(contract):
    """A schema without words is half a contract."""
    for field in load_contract(contract).schema["fields"]:
        assert field["doc"].endswith("."), field["name"]


@pytest.mark.parametrize("contract", contract_names())
def test_every_check_is_about_a_field_of_its_contract(contract):
    """A predicate names a column, or an array and a field of its elements."""
    columns = load_contract(contract).columns
    for check in load_contract(contract).checks:
        name = check.field.partition(".")[0]

        assert name in columns
        assert check.each in (None, name)
