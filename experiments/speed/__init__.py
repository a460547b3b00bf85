"""How fast is it? Ratios from one run, against a peer doing the same work."""
