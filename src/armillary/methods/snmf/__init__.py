"""Semi-nonnegative matrix factorisation of the neurons' activations. Read `semi_nmf`, `updates` and `solver` in that order."""
