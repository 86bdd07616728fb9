"""The code that `make mutation-test` removes exists, and each promise has mutants."""

from __future__ import annotations

import pytest

import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.what)
def test_its_text_stands_in_its_file_once(mutant: mutants.Mutant) -> None:
    assert (mutants.ROOT / mutant.file).read_text().count(mutant.old) == 1


@pytest.mark.parametrize("number", range(1, 9))
def test_every_promise_has_a_mutant(number: int) -> None:
    assert any(mutant.what.startswith(f"promise {number}:") for mutant in mutants.MUTANTS)
