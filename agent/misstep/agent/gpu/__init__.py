"""NVIDIA GPUs: a child process reads NVML, the agent's probe reads the child. No GPU library is loaded into the agent.

`nvml`, `readings`, `device`, `wire` and `child` run in the child too, which is a fresh interpreter without site
packages: they import ctypes and what costs no memory, and nothing of the rest of Misstep.
"""
