"""The closed loop on one machine, measured at the client: serve, observe, write, prove, promote, swap, measure."""
