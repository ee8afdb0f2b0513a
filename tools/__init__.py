"""The commands, in folders with what only they need."""
