"""Records of evaluations, statistics on them, and the tables and the page made from them."""
