"""Detectors: pure functions from a window of the store to observations, without a memory of their own."""
