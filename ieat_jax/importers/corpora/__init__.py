"""The corpora, one file each. A file that is added here can be imported by `prepare import`, and stands in its list.

It has a `CORPUS` (`importers/corpus.py`): its name, licence and source, and a function that yields what becomes of
every input: `Found` with a record, or `Refused` with the reason.
"""
