"""The nouns of armillary. Knows no method, no study and no model library."""
