"""Inside the activation store: what is on disk, how it is written so that it survives being killed, and how it is read in any order.

`core.activations` is its face and holds the format.
"""
