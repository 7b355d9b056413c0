"""Reading and writing the tables, one small class each; all take the transaction's session from `Unit`."""
