"""Errors, files, run directories, processes and the store; imports nothing above it, and never torch at import."""
