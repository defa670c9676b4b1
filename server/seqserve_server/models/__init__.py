"""The versions of a repository, from the folder to the lanes."""
