"""Errors, files, run directories, processes and the store: the lowest layer, which never imports torch at import."""
