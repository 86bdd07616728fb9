"""Chances that come out as they were asked for: dealt like cards, not thrown like dice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Generic, TypeVar

CardT = TypeVar("CardT")

_SIZE = 20


class Deck(Generic[CardT]):
    """Of every twenty cards as many are of a kind as its share says; the others are `else_`."""

    def __init__(self, shares: Mapping[CardT, float], else_: CardT, chance: random.Random) -> None:
        self._cards: list[CardT] = []
        for card, share in shares.items():
            self._cards += [card] * min(round(share * _SIZE), _SIZE - len(self._cards))
        self._cards += [else_] * (_SIZE - len(self._cards))
        self._chance = chance
        self._left: list[CardT] = []

    def deal(self) -> CardT:
        if not self._left:
            self._left = list(self._cards)
            self._chance.shuffle(self._left)
        return self._left.pop()
