"""Measurements of scripts/bench: the product beside a floor, in turns and in one run, because machines are noisy."""
