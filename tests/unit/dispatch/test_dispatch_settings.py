import pytest

from autopoiesis.dispatch import DispatchSettings


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hold_max_s", -1.0, "hold_max_s is -1.0; it must be finite and at least 0"),
        ("max_attempts", 0, "max_attempts is 0; it must be finite and above 0"),
        ("fuel_per_second", float("inf"), "fuel_per_second is inf; it must be finite and above 0"),
        ("suspect_after_s", float("nan"), "suspect_after_s is nan; it must be finite and above 0"),
        ("max_reject_share", 1.5, "max_reject_share is 1.5; it is a share, at most 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DispatchSettings(**{field: value})  # type: ignore[arg-type]
