import os
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.telemetry import RequestRecord, StepBatch, StepRecord
from autopoiesis.observer.ledger import Ledger
from autopoiesis.observer.rows import StepRow, step_rows
from autopoiesis.observer.segments import Batch, SegmentLog
from autopoiesis.simulator.calibrate import read_steps


def record(i, at=None):
    return RequestRecord(
        request_id=f"r{i}",
        scope="local/m",
        model="m",
        arrival_unix_s=100.0 + i if at is None else at,
        stream=True,
        prompt_bytes=4,
        prompt_tokens=1,
        prompt_tokens_estimated=1,
        max_tokens=3,
        output_tokens=2,
        output_censored=False,
        outcome="finished",
        block_hashes=(1, 2),
    )


@pytest.fixture
def open_log():
    with ExitStack() as stack:

        def opened(root, **options):
            log = SegmentLog(root, "requests", RequestRecord, time_field="arrival_unix_s", **options)
            stack.callback(log.close)
            return log

        yield opened


def ids(log):
    return log.between(0, 1e12)["request_id"].to_pylist()


def batch(number, *records, sender="router", incarnation="a"):
    return Batch((sender, incarnation, number), records)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30))))
def test_ledger_is_a_set_and_survives_its_dump(names):
    ledger, model = Ledger(), set()
    for incarnation, number in names:
        name = ("router", incarnation, number)
        assert ledger.add(name) == (name not in model)
        model.add(name)
    copy = Ledger()
    copy.update(ledger.dump())
    for incarnation in "ab":
        for number in range(-1, 32):
            assert (("router", incarnation, number) in copy) == (("router", incarnation, number) in model)


def test_ledger_of_dense_numbers_is_one_range():
    ledger = Ledger()
    for number in (3, 1, 0, 2, 4):
        ledger.add(("r", "a", number))
    assert ledger.dump() == [["r", "a", 0, 4]]


def test_a_redelivered_batch_is_stored_once(open_log, tmp_path):
    log = open_log(tmp_path)
    assert len(log.append([batch(0, record(0)), batch(0, record(0)), batch(1, record(1))])) == 2
    assert log.append([batch(1, record(1))]) == []
    assert ids(log) == ["r0", "r1"]


def test_open_rows_and_names_survive_a_crash_at_every_byte(open_log, tmp_path):
    log = open_log(tmp_path)
    for number in range(3):
        log.append([batch(number, record(number))])
    whole = (tmp_path / "requests/0000000001.wal").read_bytes()
    for cut in range(0, len(whole) + 1, 7):
        root = tmp_path / f"cut{cut}"
        (root / "requests").mkdir(parents=True)
        (root / "requests/0000000001.wal").write_bytes(whole[:cut])
        again = open_log(root)
        before = ids(again)
        assert before == [f"r{i}" for i in range(len(before))]
        again.append(
            [batch(number, record(number)) for number in range(3)]
        )  # what was not acknowledged comes again
        assert ids(again) == ["r0", "r1", "r2"]
        again.close()
        assert ids(open_log(root)) == ["r0", "r1", "r2"]


def test_a_damaged_frame_ends_the_recovery(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append([batch(0, record(0))])
    log.append([batch(1, record(1))])
    path = tmp_path / "requests/0000000001.wal"
    data = bytearray(path.read_bytes())
    data[-5] ^= 0xFF
    path.write_bytes(data)
    assert ids(open_log(tmp_path)) == ["r0"]


def test_a_crash_between_parquet_and_the_end_of_the_write_ahead_file_doubles_nothing(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append([batch(0, record(0))])
    wal = tmp_path / "requests/0000000001.wal"
    left_over = wal.read_bytes()
    assert log.roll(force=True).rows == 1
    wal.write_bytes(left_over)
    again = open_log(tmp_path)
    assert ids(again) == ["r0"]
    assert again.append([batch(0, record(0))]) == []
    assert again.append([batch(1, record(1))]) != []
    assert ids(open_log(tmp_path)) == ["r0", "r1"]


def test_a_half_written_parquet_is_thrown_away(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append([batch(0, record(0))])
    (tmp_path / "requests/0000000001.parquet.tmp").write_bytes(b"PAR1 half")
    again = open_log(tmp_path)
    assert ids(again) == ["r0"]
    assert not list(tmp_path.glob("**/*.tmp"))


def test_rolling_by_rows_and_by_age_and_reading_across(open_log, tmp_path):
    now = [0.0]
    log = open_log(tmp_path, max_rows=2, max_age_s=10.0, clock=lambda: now[0])
    assert log.roll() is None
    log.append([batch(0, record(0))])
    assert log.roll() is None
    log.append([batch(1, record(1))])
    full = log.roll()
    assert (full.rows, full.start_unix_s, full.end_unix_s) == (2, 100.0, 101.0)
    log.append([batch(2, record(2))])
    now[0] = 11.0
    assert log.roll().rows == 1
    log.append([batch(3, record(3))])
    assert log.between(101, 103)["request_id"].to_pylist() == ["r1", "r2"]
    assert log.between(103, 104).to_pylist()[0]["block_hashes"] == [1, 2]


def test_retention_by_age_and_bytes_keeps_the_names(open_log, tmp_path):
    now = [1000.0]
    log = open_log(tmp_path, clock=lambda: now[0])
    for number, at in enumerate((100.0, 500.0, 900.0)):
        log.append([batch(number, record(number, at))])
        log.roll(force=True)
    assert [s.name for s in log.prune(max_age_s=600, max_bytes=1 << 30)] == ["0000000001.parquet"]
    assert [s.name for s in log.prune(max_age_s=1e9, max_bytes=1)] == [
        "0000000002.parquet",
        "0000000003.parquet",
    ]
    again = open_log(tmp_path)
    assert again.append([batch(0, record(0)), batch(2, record(2))]) == []
    assert again.append([batch(3, record(3))])
    assert ids(again) == ["r3"]


def test_a_failed_write_stores_nothing_and_can_be_repeated(open_log, tmp_path, monkeypatch):
    log = open_log(tmp_path)
    log.append([batch(0, record(0))])

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            log.append([batch(1, record(1))])
    assert ids(log) == ["r0"]
    assert log.append([batch(1, record(1))])
    assert ids(open_log(tmp_path)) == ["r0", "r1"]


def test_recorded_steps_come_back_for_calibration(tmp_path):
    def steps(gpu, count):
        record = StepRecord(
            at_unix_s=5.0, duration_s=0.01, prefill_tokens=7, decode_sequences=3, kv_tokens=90
        )
        records = (record,) * count
        return StepBatch(replica=gpu, incarnation="i", batch=0, model="m", gpu=gpu, tp=2, records=records)

    with ExitStack() as stack:
        log = SegmentLog(tmp_path, "steps", StepRow, time_field="at_unix_s")
        stack.callback(log.close)
        for kind, count in (("L4", 2), ("H100", 3)):
            log.append([step_rows(steps(kind, count))])
            log.roll(force=True)
    found = read_steps(tmp_path / "steps")
    assert {kind: len(records) for kind, records in found.items()} == {("m", "L4", 2): 2, ("m", "H100", 2): 3}
    assert found["m", "L4", 2][0].kv_tokens == 90
    with pytest.raises(ValueError, match="no Parquet files"):
        read_steps(tmp_path)
    (tmp_path / "steps" / "9.parquet").write_text("torn")
    with pytest.raises(ValueError, match=r"9\.parquet: no recorded steps"):
        read_steps(tmp_path / "steps")
