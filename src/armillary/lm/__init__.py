"""Language models: where a site lies in each architecture, capture, logits and generation with edits."""
