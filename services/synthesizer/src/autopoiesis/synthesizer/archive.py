"""Grids of niches, the best few policies in each (after MAP-Elites, Mouret & Clune 2015), on islands (Tanese 1989)."""

from collections.abc import Callable, Iterable, Sequence
from random import Random

from autopoiesis.synthesizer.candidates import Scored, preference

Niche = Callable[[Scored], str]
"""A policy's cell."""


class Archive:
    """Policies of one (scope, kind), scored on one snapshot."""

    def __init__(self, niche: Niche, *, per_cell: int = 3, explore: float = 0.3) -> None:
        self._niche = niche
        self._per_cell = per_cell
        self._explore = explore
        self._cells: dict[str, list[Scored]] = {}

    def add(self, entries: Iterable[Scored]) -> None:
        """Take scored policies in; each cell keeps its best, a policy known already its newest result."""
        for entry in entries:
            cell = self._cells.setdefault(self._niche(entry), [])
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


class Islands:
    """Archives that breed apart, so that one early success does not take over; their best migrate along a ring.

    Raises ValueError for fewer than one.
    """

    def __init__(self, niche: Niche, count: int = 1, *, per_cell: int = 3) -> None:
        if count < 1:
            raise ValueError(f"islands is {count}; there is at least one")
        self._archives = [Archive(niche, per_cell=per_cell) for _ in range(count)]

    @property
    def count(self) -> int:
        return len(self._archives)

    def add(self, entries: Iterable[Scored], island: int | None = None) -> None:
        """Take scored policies in on one island; on all of them where none is named."""
        kept = list(entries)
        for archive in self._archives if island is None else [self._archives[island]]:
            archive.add(kept)

    def migrate(self) -> None:
        """Each island's best is copied to the next one."""
        best = [archive.ranked()[:1] for archive in self._archives]
        for number, travellers in enumerate(best):
            self._archives[(number + 1) % self.count].add(travellers)

    def ranked(self) -> list[Scored]:
        """Everything kept anywhere, best first."""
        found = {entry.hash: entry for archive in self._archives for entry in archive.ranked()}
        return sorted(found.values(), key=preference)

    def parents(self, count: int, rng: Random, island: int) -> list[Scored]:
        """Whom to breed from on an island; see `Archive.parents`."""
        return self._archives[island].parents(count, rng)

    def others(self, chosen: Sequence[Scored], count: int, rng: Random) -> list[Scored]:
        """Elites of random cells of any island that are not among `chosen`: ideas from elsewhere."""
        known = {policy.hash for policy in chosen}
        elites = {
            cell[0].hash: cell[0]
            for archive in self._archives
            for cell in archive.cells.values()
            if cell[0].hash not in known
        }
        return rng.sample(sorted(elites.values(), key=preference), min(count, len(elites)))
