"""A corpus of small scripts that strangers might run, each with its entry in a ledger.

``python -m misstep.lab.cases [NAME…]`` runs them under `misstep run` against a Misstep and prints how
often cause and entity were right and silence was kept. Scripts are started under a neutral name, from a
neutral folder: nothing that Misstep can see says what is expected.
"""
