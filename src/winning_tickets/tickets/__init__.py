"""Tickets: masks by parameter name, gates on heads and FFNs, their files, selection and overlap."""
