"""Pages and pictures of this repository's documentation that are generated from the code."""
