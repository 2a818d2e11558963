"""How features lie to each other."""
