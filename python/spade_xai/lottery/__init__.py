"""Lottery tickets seen through Grad-CAM and concepts (Ghosh and Batmanghelich, arXiv 2307.13698)."""
