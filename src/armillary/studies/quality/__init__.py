"""How good a fit is: what it loses, and what its features are worth."""
