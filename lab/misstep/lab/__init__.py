"""Real workloads with real faults: the demo, and a corpus of cases that Misstep is scored on.

Every fault is the real mechanism (a process that dies, memory that grows, a resource that no node
has), and what was injected stands in a ledger that only this room reads. Nothing that diagnoses may
import it, and neither a command line nor an environment of the workload tells it. No diagnosis here,
and no rendering: front ends pass theirs in.
"""
