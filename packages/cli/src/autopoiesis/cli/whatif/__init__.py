"""What `autopoiesis whatif` was asked and how it is answered."""
