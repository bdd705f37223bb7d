"""Explanations and evaluations of many images, as tables and pages."""
