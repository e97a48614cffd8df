"""The whole system on one machine, behind scripts/run: each part a process of its own, in the order they need."""
