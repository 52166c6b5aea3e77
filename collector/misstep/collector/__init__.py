"""The collector: takes OTLP, keeps it, diagnoses it each second, and answers questions over HTTP.

Storage formats and opinions about causes do not belong here; the first live in `misstep.store`, the
second in `misstep.diagnosis`.
"""
