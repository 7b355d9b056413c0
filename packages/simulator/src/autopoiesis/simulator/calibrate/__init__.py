"""Re-fit an engine's efficiencies to what it did.

`fit_steps` takes sampled engine steps (`telemetry.step`), `fit_requests` a per-request log, which it matches by simulating the
engine. Both are robust to outliers, keep every efficiency within the roofline, give an interval for each parameter, and leave
at its starting value, with the reason, what the data cannot identify; a parameter that was asked for by name is then refused
with `NotIdentifiableError`. `read_steps` reads what a running system kept. `fit_affine` is for engines whose hardware or model the roofline does not describe.
"""

from autopoiesis.simulator.calibrate.affine import AffineFit, fit_affine
from autopoiesis.simulator.calibrate.applying import calibrated
from autopoiesis.simulator.calibrate.fitting import Fit, NotIdentifiableError, Parameter
from autopoiesis.simulator.calibrate.logs import EngineSetup, RequestSample, Times, fit_requests, play
from autopoiesis.simulator.calibrate.recorded import read_steps
from autopoiesis.simulator.calibrate.steps import fit_steps

__all__ = [
    "AffineFit",
    "EngineSetup",
    "Fit",
    "NotIdentifiableError",
    "Parameter",
    "RequestSample",
    "Times",
    "calibrated",
    "fit_affine",
    "fit_requests",
    "fit_steps",
    "play",
    "read_steps",
]
