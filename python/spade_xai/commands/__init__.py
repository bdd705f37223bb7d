"""The commands of spade-xai, one a file."""
