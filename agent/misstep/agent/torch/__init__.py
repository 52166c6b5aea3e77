"""What PyTorch's ranks tell of themselves: their collectives, their stacks, their life. No torch is imported here.

Readings only. Which rank keeps the others waiting, and why, is not decided here.
"""
