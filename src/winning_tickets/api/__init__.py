"""The Python interface: verbs that take keyword arguments and objects in memory, and return results with tables."""
