"""Tasks for interchange interventions: builders (one file each), readers of other benchmarks' files, and a JSON form of one's own.

    entities   facts about entities, told apart by attribute (RAVEL)
    mcqa       multiple choice with lettered options
    ioi        which of two names is not said again
    recall     pairs of key and value, and a key that is asked for
    ravel_files, mib_files, files      readers

Everything here is pure and seeded; no model is needed. What a task is stands in `armillary.core.task`.
"""
