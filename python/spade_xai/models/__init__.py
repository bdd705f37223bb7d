"""Models and what goes into them: loading, their layers, copies that are safe to work on, images."""
