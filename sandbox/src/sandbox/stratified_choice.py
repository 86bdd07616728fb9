"""Random outcomes with exact shares: dealt like cards, not thrown like dice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Generic, TypeVar

CardT = TypeVar("CardT")


class Deck(Generic[CardT]):
    """In every `size` cards each kind has exactly its share; the others are `else_`."""

    def __init__(
        self,
        shares: Mapping[CardT, float],
        else_: CardT,
        chance: random.Random,
        *,
        size: int = 20,
    ) -> None:
        self._cards: list[CardT] = []
        for card, share in shares.items():
            self._cards += [card] * min(round(share * size), size - len(self._cards))
        self._cards += [else_] * (size - len(self._cards))
        self._chance = chance
        self._left: list[CardT] = []

    def deal(self) -> CardT:
        if not self._left:
            self._left = list(self._cards)
            self._chance.shuffle(self._left)
        return self._left.pop()
