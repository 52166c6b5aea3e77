"""One module per command: ``prepare(parser)`` declares its arguments, ``run(arguments)`` returns the exit code.

`misstep.cli.main` imports the module of the command that was asked for, and no other.
"""
