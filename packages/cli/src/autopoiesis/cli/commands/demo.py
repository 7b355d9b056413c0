"""`autopoiesis demo`: the closed loop on one machine, measured at the client."""
