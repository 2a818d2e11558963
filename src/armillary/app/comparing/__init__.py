"""Comparing: several studies of several fits, as one table.

plans      which studies, with which settings: budgets
results    what was measured already, on disk
run        all studies one after another, resumable, and the table
"""
