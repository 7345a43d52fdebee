"""Events on disk, and who still has to hear of them."""
