"""Our own questions under ``/api/misstep/v1``: JSON, every read as of a time, every list in pages.

No storage format and no opinion lives here: handlers ask the store's view and lay out what it answers.
"""
