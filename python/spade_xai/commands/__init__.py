"""The commands of spade-xai, one per file."""
