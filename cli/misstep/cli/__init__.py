"""The `misstep` command: it composes the other rooms and imports them only when a command needs them.

No logic of its own lives here: what is true of a cluster comes from the collector's API, and this
package turns it into words, colors and exit codes. It never opens the store.
"""
