"""Where a policy lies in feature space: few, coarse traits, so that each cell stays filled."""

import ast
from dataclasses import asdict, dataclass

_PREDICTIONS = frozenset({"predicted_ttft", "predicted_tpot"})
_LOCALITY = frozenset({"prefix_hit_tokens", "session_replica", "session"})
_BUCKETS = (60, 150, 400)
"""Bounds of the complexity buckets, in syntax nodes."""


@dataclass(frozen=True, slots=True, order=True)
class Features:
    """Traits of a policy's text."""

    defers: bool
    """Returns HOLD or REJECT somewhere."""
    predicts: bool
    """Reads predicted latencies."""
    local: bool
    """Reads prefix hits or sessions."""
    complexity: int
    """0 to 3, by syntax nodes."""

    @property
    def cell(self) -> str:
        """Name of the niche, such as `defers+predicts/2`."""
        traits = [name for name in ("defers", "predicts", "local") if getattr(self, name)]
        return f"{'+'.join(traits) or 'plain'}/{self.complexity}"

    def to_json(self) -> dict[str, bool | int]:
        return asdict(self)


def features(source: str) -> Features:
    """Raises SyntaxError for text that is not Python."""
    nodes = list(ast.walk(ast.parse(source)))
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    return Features(
        defers=bool(names & {"HOLD", "REJECT"}),
        predicts=bool(read & _PREDICTIONS),
        local=bool(read & _LOCALITY),
        complexity=sum(len(nodes) > bound for bound in _BUCKETS),
    )
