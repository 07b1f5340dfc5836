"""The store of runs: claims, index, queries and checksums."""
