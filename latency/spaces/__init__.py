"""The spaces that ship: each module has SPACES, name -> SearchSpace. Data, not code."""
