"""Planted backdoors: patches, planting, a network and pictures that have them."""
