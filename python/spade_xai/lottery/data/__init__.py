"""Pictures with classes and concepts: published data sets read from the user's folders, and a drawn one."""
