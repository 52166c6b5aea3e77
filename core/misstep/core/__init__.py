"""What every room shares: identity, names, settings, errors, clock, exit codes and the client of our API.

Nothing here reads the machine, the network or a database, but for two edges: `settings` reads its
file and the environment, `client` speaks to our own collector. Standard library only: the agent
loads this package on every node.
"""

__version__ = "0.1.0"
