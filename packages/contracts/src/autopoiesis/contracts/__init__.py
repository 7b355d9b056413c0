"""Messages and subjects every Autopoiesis service speaks."""
