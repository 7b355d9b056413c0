"""A grid of niches, the best few policies in each (after MAP-Elites, Mouret & Clune 2015), and whom to breed from."""

from collections.abc import Iterable, Sequence
from random import Random

from autopoiesis.synthesizer.candidates import Scored, preference
from autopoiesis.synthesizer.features import features


class Archive:
    """Policies of one (scope, kind), scored on one snapshot."""

    def __init__(self, *, per_cell: int = 3, explore: float = 0.3) -> None:
        self._per_cell = per_cell
        self._explore = explore
        self._cells: dict[str, list[Scored]] = {}

    def add(self, entries: Iterable[Scored]) -> None:
        """Take scored policies in; each cell keeps its best, a policy known already its newest result."""
        for entry in entries:
            cell = self._cells.setdefault(features(entry.source).cell, [])
            cell[:] = [kept for kept in cell if kept.hash != entry.hash]
            cell.append(entry)
            cell.sort(key=preference)
            del cell[self._per_cell :]

    @property
    def cells(self) -> dict[str, Sequence[Scored]]:
        return {name: tuple(cell) for name, cell in sorted(self._cells.items())}

    def ranked(self) -> list[Scored]:
        """Everything kept, best first."""
        return sorted((e for cell in self._cells.values() for e in cell), key=preference)

    def parents(self, count: int, rng: Random) -> list[Scored]:
        """Whom to breed from: mostly by rank, with probability `explore` each the best of a random cell; distinct, best first."""
        ranked = self.ranked()
        elites = [cell[0] for _, cell in sorted(self._cells.items())]
        chosen: dict[str, Scored] = {}
        pool = list(ranked)
        while pool and len(chosen) < min(count, len(ranked)):
            if rng.random() < self._explore and (open_ := [e for e in elites if e.hash not in chosen]):
                pick = rng.choice(open_)
            else:
                pick = rng.choices(pool, [1 / (1 + rank) for rank in range(len(pool))])[0]
            chosen[pick.hash] = pick
            pool = [e for e in pool if e.hash not in chosen]
        return sorted(chosen.values(), key=preference)
