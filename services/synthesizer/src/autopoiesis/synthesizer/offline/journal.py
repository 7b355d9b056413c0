"""What replays found, written down as they end: a search that is run again takes it from there."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.replay import FailedReplayError, Pass, Place
from autopoiesis.synthesizer.scoring import Runs


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question about one policy and its answer: a pass, a behaviour, or why there is neither."""

    policy: str
    place: str
    """Where it was replayed; `probes` for its behaviour."""
    load: float = 0.0
    seed: int = 0
    found: Pass | None = None
    behaviour: str = ""
    failed: str = ""


_Key = tuple[str, str, float, int]
PROBES = "probes"


class Journal:
    """`Runs` that asks others once and remembers in a file, one entry a line."""

    def __init__(self, runs: Runs, file: Path) -> None:
        """Raises ValueError for a file that is not a journal. Its last line may be torn: whoever wrote it was killed."""
        self._runs, self._file = runs, file
        self._known: dict[_Key, Entry] = {}
        whole, _, _ = (file.read_bytes() if file.exists() else b"").rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except msgspec.DecodeError as error:
                raise ValueError(f"{file}:{number}: not a journal of replays: {error}") from error
            self._known[_key(entry)] = entry
        self.remembered = len(self._known)
        """Answers that were there at the start."""
        if file.exists():
            with file.open("r+b") as torn:
                torn.truncate(len(whole) + 1 if whole else 0)

    async def run(
        self, policy: Scored, place: Place, loads: Sequence[float], seeds: Sequence[int]
    ) -> list[Pass]:
        """Every load with every seed, in that order. Raises FailedReplayError."""
        return [await self._pass(policy, place, load, seed) for load in loads for seed in seeds]

    async def behaviour(self, policy: Scored) -> str:
        """As `Replays.behaviour`."""
        entry = self._known.get((policy.hash, PROBES, 0.0, 0))
        if entry is None:
            try:
                entry = Entry(policy=policy.hash, place=PROBES, behaviour=await self._runs.behaviour(policy))
            except FailedReplayError as error:
                entry = Entry(policy=policy.hash, place=PROBES, failed=str(error))
            self._keep(entry)
        if entry.failed:
            raise FailedReplayError(entry.failed)
        return entry.behaviour

    async def _pass(self, policy: Scored, place: Place, load: float, seed: int) -> Pass:
        entry = self._known.get((policy.hash, place, load, seed))
        if entry is None:
            asked = Entry(policy=policy.hash, place=place, load=load, seed=seed)
            try:
                (found,) = await self._runs.run(policy, place, (load,), (seed,))
                entry = msgspec.structs.replace(asked, found=found)
            except FailedReplayError as error:
                entry = msgspec.structs.replace(asked, failed=str(error))
            self._keep(entry)
        if entry.found is None:
            raise FailedReplayError(entry.failed)
        return entry.found

    def _keep(self, entry: Entry) -> None:
        self._known[_key(entry)] = entry
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")


def _key(entry: Entry) -> _Key:
    return entry.policy, entry.place, entry.load, entry.seed
