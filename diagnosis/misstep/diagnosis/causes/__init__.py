"""Causes: for each, what it takes to blame it, whom it blames, and what to do."""
