"""SQL that people write, run where it can do no harm: in a process of its own that reads the lake and nothing else.

Four walls, of which each alone would hold:

1. `statement`: one SELECT, of our tables, without functions that read files.
2. DuckDB: no external access, configuration locked, nothing loaded on demand, the lake attached read-only.
3. `confinement`: the kernel lets the process read the lake's folder and open, write, start or connect to nothing else.
4. `runner`: a new process for each statement, with limits of time, memory and answer, killed when it passes one.

DuckDB's own setting does not hold alone: functions of its SQLite extension open any file by path.
"""
