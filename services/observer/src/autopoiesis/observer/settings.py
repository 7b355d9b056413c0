"""What an operator can set."""

from typing import ClassVar

from autopoiesis.runtime.settings import Port, Section


class ObserverSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "observer"
    host: str = "127.0.0.1"
    port: Port = 0
    """Of the read API; 0 for a free one."""
    dir: str = "segments"
    """Folder of the telemetry segments; one observer at a time."""
    segment_rows: int = 50_000
    """Rows after which a segment is closed as Parquet."""
    segment_s: float = 300.0
    """Seconds after which an open segment is closed."""
    keep_s: float = 7 * 86_400.0
    """Seconds that segments are kept."""
    keep_bytes: int = 20 * (1 << 30)
    """Bytes of segments per kind that are kept."""
    recent_arrivals: int = 100_000
    """Arrivals per scope held in memory for windows and drift."""
    window_s: float = 10.0
    """Length of one window of the read API."""
    snapshot_every_s: float = 300.0
    """Seconds between snapshots, 0 for none but on drift or request."""
    snapshot_window_s: float = 900.0
    """Longest window of a snapshot."""
    min_arrivals: int = 200
    """Fewest arrivals of a window that is worth a snapshot."""
    max_arrivals: int = 50_000
    """Most arrivals of a snapshot; the newest are taken."""
    open_share: float = 0.6
    """Share of a window's time that everybody may read; the later rest is sealed."""
    settle_s: float = 10.0
    """Least age of the youngest arrival in a snapshot: it must have ended to be known."""
    settle_most_s: float = 600.0
    """Most age waited for, where answers take long (`router.request_timeout_s` ends them); what runs longer is missing."""
    keep_snapshots: int = 50
    """Snapshots kept per scope."""
    drift_block_s: float = 30.0
    """Least seconds of a block that is compared with the reference."""
    drift_block_arrivals: int = 100
    """Least arrivals of such a block."""
    drift_alpha: float = 0.01
    """Family-wise error of one comparison."""
    drift_statistic: float = 0.15
    """Least Kolmogorov-Smirnov distance that counts, 0 to 1."""
    drift_change: float = 0.2
    """Least relative change of mean or spread that counts."""
    nice: int = 10
    """CPU courtesy towards the data plane."""

    def __post_init__(self) -> None:
        if not 0 < self.open_share <= 1:
            raise ValueError(
                f"open_share is {self.open_share}; it is a share above 0, at most 1 (1 seals nothing)"
            )
        if self.settle_most_s < self.settle_s:
            raise ValueError(f"settle_most_s ({self.settle_most_s}) is below settle_s ({self.settle_s})")
