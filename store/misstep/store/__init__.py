"""Keeps what was received and answers questions about it: journal, ingest, hot tables, lake, query functions.

No HTTP and no diagnosis here: callers hand in bytes with their decompressed form, and read rows through a
`view.View`. Nothing is imported by this package itself, so that `rows` stays cheap for those who need types.
"""
